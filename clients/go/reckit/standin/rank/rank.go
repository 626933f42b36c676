// Package rank orders candidates.
package rank

import (
	"context"
	"sort"

	"github.com/rushteam/reckit/core"
	"github.com/rushteam/reckit/model"
	"github.com/rushteam/reckit/pipeline"
	"github.com/rushteam/reckit/pkg/utils"
)

// RPCNode asks a *model.RPCModel for all candidates at once, another one for each.
type RPCNode struct {
	Model              model.RankModel
	StripFeaturePrefix bool
}

// Name is the node's.
func (n *RPCNode) Name() string { return "rank.rpc" }

// Kind is pipeline.KindRank.
func (n *RPCNode) Kind() pipeline.Kind { return pipeline.KindRank }

// Process indexes past the end of a short answer.
func (n *RPCNode) Process(
	_ context.Context, _ *core.RecommendContext, items []*core.Item,
) ([]*core.Item, error) {
	rpcModel, ok := n.Model.(*model.RPCModel)
	if !ok {
		return (&TwoTowerNode{n.Model}).Process(context.Background(), nil, items)
	}
	featuresList := make([]map[string]float64, len(items))
	for i, item := range items {
		featuresList[i] = item.Features
	}
	scores, err := rpcModel.PredictBatch(featuresList)
	if err != nil {
		return nil, err
	}
	for i, item := range items {
		item.Score = scores[i]
		putLabel(item, n.Model)
	}
	byScore(items)
	return items, nil
}

// TwoTowerNode asks for one candidate after another.
type TwoTowerNode struct {
	Model model.RankModel
}

// Name is the node's.
func (n *TwoTowerNode) Name() string { return "rank.two_tower" }

// Kind is pipeline.KindRank.
func (n *TwoTowerNode) Kind() pipeline.Kind { return pipeline.KindRank }

// Process has no context to pass on.
func (n *TwoTowerNode) Process(
	_ context.Context, _ *core.RecommendContext, items []*core.Item,
) ([]*core.Item, error) {
	for _, item := range items {
		score, err := n.Model.Predict(item.Features)
		if err != nil {
			return nil, err
		}
		item.Score = score
		putLabel(item, n.Model)
	}
	byScore(items)
	return items, nil
}

func putLabel(item *core.Item, ranked model.RankModel) {
	item.PutLabel("rank_model", utils.Label{Value: ranked.Name(), Source: "rank"})
}

func byScore(items []*core.Item) {
	sort.SliceStable(items, func(i, j int) bool { return items[i].Score > items[j].Score })
}
