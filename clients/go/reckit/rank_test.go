package reckit_test

import (
	"context"
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/rushteam/reckit/core"
	"github.com/rushteam/reckit/feature"
	"github.com/rushteam/reckit/pipeline"
	"github.com/rushteam/reckit/pkg/utils"
	"github.com/rushteam/reckit/rank"
	"github.com/rushteam/reckit/recall"
	"github.com/rushteam/reckit/rerank"
	"google.golang.org/grpc"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
	"github.com/twotower/twotower/clients/go/reckit"
	"github.com/twotower/twotower/clients/go/twotower"
)

func TestRankScoresAllInOneCallAndLeavesMissingOnesAsTheyWere(t *testing.T) {
	client, made := dial(t)
	var ids []string
	for i := range 200 {
		ids = append(ids, fmt.Sprint("i", i))
	}
	ids = slices.Insert(ids, 150, "gone-1")
	ids = slices.Insert(ids, 3, "gone-2")
	items := make([]*core.Item, len(ids))
	for i, id := range ids {
		items[i] = core.NewItem(id)
	}
	items[3].Score = 1234
	items = slices.Insert(items, 10, (*core.Item)(nil))
	items[11].Meta, items[11].Labels = nil, nil // as a source may leave them
	given := slices.Clone(items)
	node := &reckit.Rank{Client: client, Embeddings: true}
	ranked, err := node.Process(t.Context(), someone(), items)
	if err != nil {
		t.Fatal(err)
	}
	made.want(t, "Score", "BatchGetItemEmbeddings")
	if !slices.Equal(items, given) {
		t.Error("the order of the given items was changed")
	}
	want, err := client.Score(t.Context(), &twotower.ScoreRequest{User: someoneSent, ItemIDs: ids})
	if err != nil {
		t.Fatal(err)
	}
	order := want.Order()[:200]
	if len(ranked) != 202 {
		t.Fatal(len(ranked))
	}
	for place, i := range order {
		item := ranked[place]
		if item.ID != ids[i] || item.Score != float64(want.Scores[i]) || item.Meta["similarity"] != float64(want.Similarities[i]) ||
			item.Labels["rank_model"].Value != "two_tower" || item.Labels["rank_release"].Value != "dot" {
			t.Fatalf("place %d: %+v, want %s %v", place, item, ids[i], want.Scores[i])
		}
		if vector, ok := item.Meta["embedding"].([]float64); !ok || len(vector) == 0 {
			t.Fatalf("%+v", item.Meta)
		}
	}
	stored, err := client.ItemEmbedding(t.Context(), ranked[0].ID)
	if err != nil || float32(ranked[0].Meta["embedding"].([]float64)[1]) != stored.Values[1] {
		t.Error(stored, err)
	}
	untouched := map[string]utils.Label{reckit.LabelMissing: {Value: "two_tower", Source: "rank"}}
	for place, score := range map[int]float64{200: 1234, 201: 0} {
		item := ranked[place]
		if item.Score != score || len(item.Meta) != 0 || !reflect.DeepEqual(item.Labels, untouched) {
			t.Errorf("%+v", item)
		}
	}
	if ranked[200].ID != "gone-2" || ranked[201].ID != "gone-1" {
		t.Error(ranked[200].ID, ranked[201].ID)
	}
}

func TestReRankersFindTheVectorsOfRecallAndOfRank(t *testing.T) {
	client, _ := dial(t)
	for name, nodes := range map[string][]pipeline.Node{
		"recall": {&recall.Fanout{Sources: []recall.Source{
			&reckit.Recall{Client: client, Selection: twotower.Selection{K: 50, IncludeEmbeddings: true}},
		}}},
		"rank": {
			&recall.Fanout{Sources: []recall.Source{&reckit.Recall{Client: client, Selection: twotower.Selection{K: 50}}}},
			&reckit.Rank{Client: client, Embeddings: true},
		},
	} {
		p := &pipeline.Pipeline{Nodes: append(nodes, &rerank.DPPDiversityNode{N: 5, Alpha: 1})}
		items, err := p.Run(t.Context(), someone(), nil)
		if err != nil || len(items) != 5 {
			t.Error(name, len(items), err)
		}
	}
}

// forgetful deletes what it scores.
type forgetful struct {
	twotowerv1.UnimplementedTwoTowerServiceServer
}

func (forgetful) Score(context.Context, *twotowerv1.ScoreRequest) (*twotowerv1.ScoreResponse, error) {
	return &twotowerv1.ScoreResponse{Scores: []float32{0.5}, Similarities: []float32{0}, Release: "r"}, nil
}

func (forgetful) BatchGetItemEmbeddings(
	context.Context, *twotowerv1.BatchGetItemEmbeddingsRequest,
) (*twotowerv1.BatchGetItemEmbeddingsResponse, error) {
	return &twotowerv1.BatchGetItemEmbeddingsResponse{
		Embeddings: []*twotowerv1.Embedding{{}}, Release: "r", MissingIndices: []uint32{0},
	}, nil
}

func TestAnItemDeletedBetweenTheCallsKeepsNoVectorOfAnotherRelease(t *testing.T) {
	client := dialTo(t, listen(t, func(s *grpc.Server) { twotowerv1.RegisterTwoTowerServiceServer(s, forgetful{}) }))
	items := candidates("i1")
	items[0].Meta["embedding"] = []float64{1, 2}
	ranked, err := (&reckit.Rank{Client: client, Embeddings: true}).Process(t.Context(), someone(), items)
	if err != nil || len(ranked) != 1 || ranked[0].Score != 0.5 {
		t.Fatal(ranked, err)
	}
	if vector, has := ranked[0].Meta["embedding"]; has {
		t.Error(vector)
	}
}

// recovering is a pipeline.ErrorHook that goes on.
type recovering struct{ seen []error }

func (r *recovering) OnNodeError(_ context.Context, _ *core.RecommendContext, _ pipeline.Node, err error) bool {
	r.seen = append(r.seen, err)
	return true
}

func TestAPipelineGoesOnWithItsCandidatesWhereRankFails(t *testing.T) {
	client, _ := dial(t)
	hook := &recovering{}
	p := &pipeline.Pipeline{
		Nodes: []pipeline.Node{
			&recall.Fanout{Sources: []recall.Source{&reckit.Recall{Client: client, Selection: twotower.Selection{K: 5}}}},
			&reckit.Rank{Client: client.PinTo("gone"), Embeddings: true},
			&reckit.Rank{Client: client, User: func(*core.RecommendContext) *twotower.User {
				return &twotower.User{Features: map[string]float64{"age": math.Inf(1)}}
			}},
		},
		ErrorHooks: []pipeline.ErrorHook{hook},
	}
	items, err := p.Run(t.Context(), someone(), nil)
	if err != nil || len(items) != 5 || len(hook.seen) != 2 {
		t.Fatal(items, err, hook.seen)
	}
	if !core.IsNotFound(hook.seen[0]) || core.GetDomainError(hook.seen[1]).Code != core.ErrorCodeInvalidInput {
		t.Error(hook.seen)
	}
	for _, item := range items {
		if item.Score <= 0 || item.Labels["rank_model"].Value != "" {
			t.Errorf("%+v", item)
		}
	}
}

func TestWhatEnrichNodeWritesIsReadUnderAnyOfItsNames(t *testing.T) {
	client, made := dial(t)
	want, err := client.Score(t.Context(), &twotower.ScoreRequest{
		User:    &twotower.User{Features: map[string]float64{"user_age": 41, "user_interest_sport": 0.8, "user_hour": 20}},
		ItemIDs: []string{"i1", "i2", "i3"},
	})
	if err != nil {
		t.Fatal(err)
	}
	computed, err := client.Score(t.Context(), &twotower.ScoreRequest{
		User: &twotower.User{Features: map[string]float64{"user_age": 41, "user_interest_sport": 0.8, "user_hour": 20}},
		Items: []*twotower.Item{
			{Features: map[string]float64{"item_price": 12.5, "item_ctr": 0.02}},
			{Features: map[string]float64{"item_price": 80, "item_ctr": 0.09}},
			{Features: map[string]float64{"item_price": 7}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	made.want(t, "Score", "Score")
	doubled := features{user: map[string]float64{}, items: known.items}
	for name, value := range known.user {
		doubled.user["user_"+name] = value // EnrichNode makes user_user_age of it
	}
	model := reckit.NewRankModel(client, time.Minute)
	for name, service := range map[string]features{"plain": known, "doubled": doubled} {
		for _, c := range []struct {
			node  pipeline.Node
			want  *twotower.Scores
			calls []string
		}{
			{&reckit.Rank{Client: client}, want, []string{"Score"}},
			{&rank.RPCNode{Model: model}, computed, []string{"Score"}},
			{&rank.TwoTowerNode{Model: model}, computed, []string{"Score", "Score", "Score"}},
		} {
			p := &pipeline.Pipeline{Nodes: []pipeline.Node{
				&recall.Fanout{Sources: []recall.Source{&recall.SortedSetRecall{IDs: []string{"i1", "i2", "i3"}, NodeName: "hot"}}},
				&feature.EnrichNode{FeatureService: service},
				c.node,
			}}
			items, err := p.Run(t.Context(), &core.RecommendContext{UserID: "u1", Scene: "feed"}, nil)
			if err != nil {
				t.Fatal(name, c.node.Name(), err)
			}
			if doubledName := items[0].Features["user_user_age"]; (doubledName != 0) != (name == "doubled") {
				t.Fatal("EnrichNode writes other names: ", items[0].Features)
			}
			made.want(t, c.calls...)
			if len(items) != 3 || !slices.IsSortedFunc(items, func(a, b *core.Item) int { return int(math.Copysign(1, b.Score-a.Score)) }) {
				t.Error(name, c.node.Name(), idsOf(items))
			}
			for _, item := range items {
				score := c.want.Scores[slices.Index([]string{"i1", "i2", "i3"}, item.ID)]
				if math.Abs(item.Score-float64(score)) > 1e-6 {
					t.Errorf("%s, %T: %s has %v, want %v", name, c.node, item.ID, item.Score, score)
				}
			}
		}
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
