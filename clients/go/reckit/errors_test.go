package reckit_test

import (
	"context"
	"testing"
	"time"

	"github.com/rushteam/reckit/core"

	"github.com/twotower/twotower/clients/go/reckit"
)

func TestErrorsAreBare(t *testing.T) {
	client := dialTo(t, listen(t, nil))
	service := reckit.New(client)
	one := []map[string]float64{{"age": 1}}
	ids, vector := []string{"i"}, []float64{1}
	for name, call := range map[string]func(ctx context.Context) error{
		"Predict one": func(ctx context.Context) error {
			_, err := service.Predict(ctx, &core.MLPredictRequest{Features: one})
			return err
		},
		"Predict two": func(ctx context.Context) error {
			_, err := service.Predict(ctx, &core.MLPredictRequest{Features: append(one, one...)})
			return err
		},
		"Health": service.Health,
		"Search": func(ctx context.Context) error {
			_, err := service.Search(ctx, &core.VectorSearchRequest{Vector: vector})
			return err
		},
		"Search in a release": func(ctx context.Context) error {
			_, err := service.Search(ctx, &core.VectorSearchRequest{Vector: vector, Collection: "r"})
			return err
		},
		"Insert": func(ctx context.Context) error {
			return service.Insert(ctx, &core.VectorInsertRequest{Collection: "r", IDs: ids, Vectors: [][]float64{vector}})
		},
		"Update": func(ctx context.Context) error {
			return service.Update(ctx, &core.VectorUpdateRequest{ID: "i", Vector: vector})
		},
		"Delete": func(ctx context.Context) error {
			return service.Delete(ctx, &core.VectorDeleteRequest{IDs: ids})
		},
		"Delete from a release": func(ctx context.Context) error {
			return service.Delete(ctx, &core.VectorDeleteRequest{Collection: "r", IDs: ids})
		},
		"HasCollection": func(ctx context.Context) error {
			_, err := service.HasCollection(ctx, "items")
			return err
		},
		"Recall": func(ctx context.Context) error {
			_, err := (&reckit.Recall{Client: client}).Recall(ctx, &core.RecommendContext{UserID: "u1"})
			return err
		},
		"Rank": func(ctx context.Context) error {
			_, err := (&reckit.Rank{Client: client}).Process(ctx, &core.RecommendContext{UserID: "u1"}, candidates("i1"))
			return err
		},
		"the rank model": func(ctx context.Context) error {
			_, err := reckit.NewRankModel(client, 0).Service.Predict(ctx, &core.MLPredictRequest{Features: one})
			return err
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := call(ctx)
		cancel()
		if !core.IsUnavailable(err) { // false for a wrapped one
			t.Errorf("%s: %T %v", name, err, err)
		}
	}
}

func TestWhatNobodyCanDoIsRefusedWithoutAServer(t *testing.T) {
	service, ctx := reckit.New(dialTo(t, listen(t, nil))), t.Context()
	predict := func(request *core.MLPredictRequest) error { _, err := service.Predict(ctx, request); return err }
	search := func(request *core.VectorSearchRequest) error { _, err := service.Search(ctx, request); return err }
	one := []map[string]float64{{"age": 1}}
	for _, c := range []struct {
		name string
		err  error
		code string
	}{
		{"create", service.CreateCollection(ctx, &core.VectorCreateCollectionRequest{Name: "x"}), core.ErrorCodeNotSupported},
		{"drop", service.DropCollection(ctx, "items"), core.ErrorCodeNotSupported},
		{"instances", predict(&core.MLPredictRequest{Instances: [][]float64{{1}}}), core.ErrorCodeNotSupported},
		{"another model", predict(&core.MLPredictRequest{Features: one, ModelName: "score"}), core.ErrorCodeNotFound},
		{"no features", predict(&core.MLPredictRequest{}), core.ErrorCodeInvalidInput},
		{"nil", predict(nil), core.ErrorCodeInvalidInput},
		{"euclidean", search(&core.VectorSearchRequest{Metric: "euclidean"}), core.ErrorCodeNotSupported},
		{"unknown metric", search(&core.VectorSearchRequest{Metric: "hamming"}), core.ErrorCodeInvalidInput},
		{"filter", search(&core.VectorSearchRequest{Filter: map[string]any{"a": struct{}{}}}), core.ErrorCodeInvalidInput},
		{"nil search", search(nil), core.ErrorCodeInvalidInput},
		{"no ids", service.Insert(ctx, &core.VectorInsertRequest{}), core.ErrorCodeInvalidInput},
		{"vectors", service.Insert(ctx, &core.VectorInsertRequest{IDs: []string{"i"}}), core.ErrorCodeInvalidInput},
		{"nil update", service.Update(ctx, nil), core.ErrorCodeInvalidInput},
		{"nil delete", service.Delete(ctx, nil), core.ErrorCodeInvalidInput},
	} {
		wantCode(t, c.name, c.err, c.code)
		if core.GetDomainError(c.err) == nil {
			t.Errorf("%s: the error is wrapped: %T", c.name, c.err)
		}
	}
	if err := service.Close(ctx); err != nil {
		t.Error(err)
	}
}
