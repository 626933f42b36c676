// Package rerank makes lists diverse.
package rerank

import (
	"context"
	"fmt"

	"github.com/rushteam/reckit/core"
	"github.com/rushteam/reckit/pipeline"
)

// DPPDiversityNode chooses N items. This one takes the first.
type DPPDiversityNode struct {
	N     int
	Alpha float64
}

// Name is the node's.
func (n *DPPDiversityNode) Name() string { return "rerank.dpp_diversity" }

// Kind is the node's.
func (n *DPPDiversityNode) Kind() pipeline.Kind { return pipeline.KindReRank }

// Process needs vectors of one dimension.
func (n *DPPDiversityNode) Process(
	_ context.Context, _ *core.RecommendContext, items []*core.Item,
) ([]*core.Item, error) {
	dimension := 0
	for _, item := range items {
		vector, ok := item.Meta["embedding"].([]float64)
		if !ok || len(vector) == 0 || dimension != 0 && len(vector) != dimension {
			return nil, fmt.Errorf("item %q: Meta[embedding] is %v", item.ID, item.Meta["embedding"])
		}
		dimension = len(vector)
	}
	return items[:min(n.N, len(items))], nil
}
