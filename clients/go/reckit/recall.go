package reckit

import (
	"context"
	"slices"

	"github.com/rushteam/reckit/core"
	"github.com/rushteam/reckit/pkg/utils"
	"github.com/rushteam/reckit/recall"

	"github.com/twotower/twotower/clients/go/twotower"
)

// metaEmbedding and metaSimilarity are keys of core.Item.Meta. Reckit's re-rankers read the first.
const (
	metaEmbedding  = "embedding"
	metaSimilarity = "similarity"
)

// Recall is a recall.Source that makes one Recommend call: user tower, search, filter and exclusions in one, by one
// release.
//
// Its items are ordered best first. Score is in (0, 1], Meta["similarity"] what they are ordered by, and each attribute
// that Selection asks for stands in Meta under its name; with IncludeEmbeddings Meta["embedding"] is the item's vector,
// as the re-rankers DPPDiversityNode and SSDDiversityNode need it.
type Recall struct {
	Client *twotower.Client
	// NodeName is the name of the source; "" = "recall.two_tower".
	NodeName string
	// Selection says how many items, and which. K 0 = 100.
	Selection twotower.Selection
	// Select changes the selection for one request, such as by the items that the user has seen. Optional; it gets a
	// copy, to which it may append, and returns it.
	Select func(rctx *core.RecommendContext, selection twotower.Selection) twotower.Selection
	// User says what is known about the user; nil = UserOf.
	User func(rctx *core.RecommendContext) *twotower.User
}

var _ recall.Source = (*Recall)(nil)

// Name is the value of the label recall_source.
func (r *Recall) Name() string {
	if r.NodeName == "" {
		return "recall.two_tower"
	}
	return r.NodeName
}

// Recall makes the call.
func (r *Recall) Recall(ctx context.Context, rctx *core.RecommendContext) ([]*core.Item, error) {
	request := &twotower.RecommendRequest{Selection: r.Selection}
	if r.Select != nil {
		// What one request appends must not reach the next.
		request.ExcludeItemIDs = slices.Clip(request.ExcludeItemIDs)
		request.ExcludeItemKeys = slices.Clip(request.ExcludeItemKeys)
		request.Selection = r.Select(rctx, request.Selection)
	}
	if r.User != nil {
		request.User = r.User(rctx)
	} else {
		request.User = UserOf(rctx)
	}
	found, err := r.Client.Recommend(ctx, request)
	if err != nil {
		return nil, domainError(core.ModuleService, err)
	}
	items := make([]*core.Item, len(found.Items))
	for i, one := range found.Items {
		item := core.NewItem(one.ItemID)
		item.Score = float64(one.Score)
		for name, value := range one.Attributes {
			item.Meta[name] = value
		}
		item.Meta[metaSimilarity] = float64(one.Similarity)
		if one.Embedding != nil {
			item.Meta[metaEmbedding] = doubles(one.Embedding.Values)
		}
		item.PutLabel("recall_type", utils.Label{Value: "vector_search", Source: "recall"})
		item.PutLabel("recall_release", utils.Label{Value: found.Release, Source: "recall"})
		items[i] = item
	}
	return items, nil
}
