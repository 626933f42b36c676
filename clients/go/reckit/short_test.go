package reckit_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/rushteam/reckit/core"
	"github.com/rushteam/reckit/pipeline"
	"github.com/rushteam/reckit/rank"
	"google.golang.org/grpc"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
	"github.com/twotower/twotower/clients/go/reckit"
	"github.com/twotower/twotower/clients/go/twotower"
)

// listen serves nothing, or what is registered.
func listen(t *testing.T, register func(*grpc.Server)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	if register != nil {
		server := grpc.NewServer()
		register(server)
		go func() { _ = server.Serve(listener) }()
		t.Cleanup(server.Stop)
	}
	return listener.Addr().String()
}

func dialTo(t *testing.T, target string, opts ...twotower.Option) *twotower.Client {
	t.Helper()
	client, err := twotower.Dial(t.Context(), target, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// shortServer scores one candidate of many, as no real server does.
type shortServer struct {
	twotowerv1.UnimplementedTwoTowerServiceServer
}

func (shortServer) Score(context.Context, *twotowerv1.ScoreRequest) (*twotowerv1.ScoreResponse, error) {
	return &twotowerv1.ScoreResponse{Scores: []float32{0.5}, Similarities: []float32{1}, Release: "r"}, nil
}

func TestAShortAnswerFailsTheCallAndNeverPanicsOrIsSpreadOverAll(t *testing.T) {
	client := dialTo(t, listen(t, func(s *grpc.Server) { twotowerv1.RegisterTwoTowerServiceServer(s, shortServer{}) }))
	for _, node := range []pipeline.Node{
		&rank.RPCNode{Model: reckit.NewRankModel(client, time.Minute)},
		&reckit.Rank{Client: client},
	} {
		items := candidates("i1", "i2", "i3")
		_, err := node.Process(t.Context(), &core.RecommendContext{UserID: "u1"}, items)
		wantCode(t, node.Name(), err, core.ErrorCodeInternalError)
		for _, item := range items {
			if item.Score != 0 || len(item.Labels) != 0 {
				t.Errorf("%s: a failed call changed %+v", node.Name(), item)
			}
		}
	}
}

// slowServer answers nobody who has the time to wait.
type slowServer struct {
	twotowerv1.UnimplementedTwoTowerServiceServer
}

func (slowServer) Score(ctx context.Context, _ *twotowerv1.ScoreRequest) (*twotowerv1.ScoreResponse, error) {
	if _, hasDeadline := ctx.Deadline(); hasDeadline {
		<-ctx.Done()
	}
	return nil, errors.New("no deadline, or one that is over")
}

func TestTheRankModelHasADeadlineOfItsOwn(t *testing.T) {
	target := listen(t, func(s *grpc.Server) { twotowerv1.RegisterTwoTowerServiceServer(s, slowServer{}) })
	client := dialTo(t, target, twotower.WithTimeout(0))
	node := &rank.RPCNode{Model: reckit.NewRankModel(client, 50*time.Millisecond)}
	_, err := node.Process(t.Context(), &core.RecommendContext{}, candidates("i1", "i2"))
	wantCode(t, "RPCNode", err, core.ErrorCodeUnavailable)
}

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

func TestNothingIsAskedForNoCandidates(t *testing.T) {
	node := &reckit.Rank{Client: dialTo(t, listen(t, nil))}
	for _, items := range [][]*core.Item{nil, {}, {nil}} {
		if got, err := node.Process(t.Context(), &core.RecommendContext{}, items); err != nil || len(got) != len(items) {
			t.Error(got, err)
		}
	}
}

// wantCode looks inside what Reckit's own nodes wrap.
func wantCode(t *testing.T, what string, err error, code string) {
	t.Helper()
	var domain *core.DomainError
	if !errors.As(err, &domain) || domain.Code != code {
		t.Errorf("%s: %v, want %s", what, err, code)
	}
}

func candidates(ids ...string) []*core.Item {
	items := make([]*core.Item, len(ids))
	for i, id := range ids {
		items[i] = core.NewItem(id)
		items[i].Features = map[string]float64{"user_age": 30, "item_price": float64(10 * (i + 1))}
	}
	return items
}
