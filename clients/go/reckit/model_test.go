package reckit_test

import (
	"context"
	"errors"
	"fmt"
	"math"
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

func TestTheRankModelAnswersForAllOrFails(t *testing.T) {
	client, made := dial(t)
	model, ctx := reckit.NewRankModel(client, 0), t.Context()
	// Two users among five pairs, in any order: one call.
	var pairs []map[string]float64
	for i := range 5 {
		pairs = append(pairs, map[string]float64{
			"user_age": float64(20 + i%2), "item_price": float64(10 + i), "scene_scene_id": 7, "cross_age_x_price": 3,
		})
	}
	answer, err := model.Service.Predict(ctx, &core.MLPredictRequest{Features: pairs, ModelVersion: "cosine"})
	if err != nil || answer.ModelVersion != "cosine" || len(answer.Predictions) != 5 {
		t.Fatal(answer, err)
	}
	made.want(t, "BatchScore")
	for i, pair := range pairs {
		alone, err := model.Service.Predict(ctx, &core.MLPredictRequest{
			Features: []map[string]float64{pair}, ModelName: "score", ModelVersion: "cosine",
		})
		if err != nil || math.Abs(alone.Predictions[0]-answer.Predictions[i]) > 1e-6 {
			t.Error(i, alone, err)
		}
	}
	bad := map[string]map[string]float64{
		"an item that is not finite":  {"user_age": 20, "item_price": math.NaN()},
		"an item of unknown names":    {"user_age": 20, "item_colour": 1},
		"an item of nothing":          {"user_age": 20},
		"a user that is not finite":   {"user_age": math.Inf(1), "item_price": 1},
		"a user of nothing":           {"item_price": 1},
		"names without their prefix":  {"age": 20, "price": 1},
		"nothing at all":              {},
		"only crosses of no interest": {"cross_age_x_price": 3},
	}
	for name, pair := range bad {
		for _, batch := range [][]map[string]float64{{pair}, {pairs[0], pair, pairs[1]}} {
			items := make([]*core.Item, len(batch))
			for i := range batch {
				items[i] = core.NewItem(fmt.Sprint(i))
				items[i].Features = batch[i]
			}
			_, err := (&rank.RPCNode{Model: model}).Process(ctx, &core.RecommendContext{}, items)
			wantCode(t, name, err, core.ErrorCodeInvalidInput)
		}
	}
	if err := model.Service.Health(ctx); err != nil {
		t.Error(err)
	}
	if err := model.Service.Close(ctx); err != nil {
		t.Error(err)
	}
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
