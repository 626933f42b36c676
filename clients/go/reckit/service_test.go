package reckit_test

import (
	"context"
	"math"
	"slices"
	"testing"

	"github.com/rushteam/reckit/core"
	"github.com/rushteam/reckit/recall"

	"github.com/twotower/twotower/clients/go/reckit"
	"github.com/twotower/twotower/clients/go/twotower"
)

// switching makes another release active between the two calls of TwoTowerRecall.
type switching struct {
	*reckit.Service
	after func()
}

func (s switching) Predict(ctx context.Context, req *core.MLPredictRequest) (*core.MLPredictResponse, error) {
	defer s.after()
	return s.Service.Predict(ctx, req)
}

func TestTwoTowerRecallSearchesInTheReleaseThatMadeItsVector(t *testing.T) {
	client, _ := dial(t)
	service := reckit.New(client)
	user := &twotower.User{Features: known.user}
	byDot := recommended(t, client.PinTo("dot"), &twotower.RecommendRequest{User: user})
	byCosine := recommended(t, client.PinTo("cosine"), &twotower.RecommendRequest{User: user})
	tower := switching{service, func() { activate(t, client, "cosine") }}
	items, err := recall.NewTwoTowerRecall(known, tower, service).Recall(t.Context(), &core.RecommendContext{UserID: "u1"})
	if err != nil {
		t.Fatal(err)
	}
	sameItems(t, "switched between the calls", items, byDot)
	if got := items[0].Score; math.Abs(got-float64(byDot.Items[0].Similarity)) > 1e-5 {
		t.Errorf("score %v, want the similarity %v", got, byDot.Items[0].Similarity)
	}
	items, err = recall.NewTwoTowerRecall(known, service, service).Recall(t.Context(), &core.RecommendContext{UserID: "u1"})
	if err != nil {
		t.Fatal(err)
	}
	sameItems(t, "after the switch", items, byCosine)
	if slices.Equal(byDot.ItemIDs(), byCosine.ItemIDs()) {
		t.Error("both releases find the same: this test shows nothing")
	}
}

func TestTheDefaultsOfBothSourcesMeanTheActiveRelease(t *testing.T) {
	client, _ := dial(t)
	service := reckit.New(client)
	for _, active := range []string{"dot", "cosine"} {
		activate(t, client, active)
		user := &twotower.User{Features: known.user}
		vector, err := client.EmbedUser(t.Context(), user)
		if err != nil || vector.Release != active {
			t.Fatal(vector, err)
		}
		stored := make([]float64, len(vector.Values)) // by the pipeline, not by the service
		for i, value := range vector.Values {
			stored[i] = float64(value)
		}
		rctx := &core.RecommendContext{UserID: "u1", Attributes: map[string]any{"user_embedding": stored}}
		items, err := (&recall.ANN{VectorService: service}).Recall(t.Context(), rctx)
		if err != nil {
			t.Fatal(err)
		}
		ten := recommended(t, client, &twotower.RecommendRequest{User: user, Selection: twotower.Selection{K: 10}})
		sameItems(t, "ANN", items, ten)
		items, err = recall.NewTwoTowerRecall(known, service, service, recall.WithTwoTowerTopK(10)).Recall(t.Context(), rctx)
		if err != nil {
			t.Fatal(err)
		}
		sameItems(t, "TwoTowerRecall", items, ten)
	}
}

func TestPredictAnswersForAllOrFails(t *testing.T) {
	client, _ := dial(t)
	service, ctx := reckit.New(client), t.Context()
	if err := service.Health(ctx); err != nil {
		t.Error(err)
	}
	wantCode(t, "a pin to nothing", reckit.New(client.PinTo("gone")).Health(ctx), core.ErrorCodeNotFound)
	other := map[string]float64{"age": 20}
	both, err := service.Predict(ctx, &core.MLPredictRequest{
		Features: []map[string]float64{known.user, other}, ModelName: "user_tower", ModelVersion: "cosine",
	})
	if err != nil || both.ModelVersion != "cosine" {
		t.Fatal(both, err)
	}
	for i, user := range []map[string]float64{known.user, other} {
		vector, err := client.PinTo("cosine").GetUserEmbedding(ctx, user)
		if err != nil {
			t.Fatal(err)
		}
		dimension := len(vector.Values)
		if len(both.Predictions) != 2*dimension {
			t.Fatal(len(both.Predictions))
		}
		for j, value := range vector.Values {
			if math.Abs(both.Predictions[i*dimension+j]-float64(value)) > 1e-5 {
				t.Errorf("user %d: value %d", i, j)
			}
		}
	}
	for name, bad := range map[string]map[string]float64{"not finite": {"age": math.NaN()}, "unknown": {"colour": 1}} {
		for _, users := range [][]map[string]float64{{bad}, {known.user, bad}} {
			_, err := service.Predict(ctx, &core.MLPredictRequest{Features: users})
			wantCode(t, name, err, core.ErrorCodeInvalidInput)
		}
	}
	_, err = service.Predict(ctx, &core.MLPredictRequest{Features: []map[string]float64{known.user}, ModelVersion: "gone"})
	wantCode(t, "a release that is not loaded", err, core.ErrorCodeNotFound)
}
