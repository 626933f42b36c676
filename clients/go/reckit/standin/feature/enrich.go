// Package feature adds features to candidates.
package feature

import (
	"context"
	"strings"

	"github.com/rushteam/reckit/core"
	"github.com/rushteam/reckit/pipeline"
)

// EnrichNode writes the features of the user, the item, the scene and crosses into each candidate.
type EnrichNode struct {
	FeatureService core.FeatureService
}

// Name is the node's.
func (n *EnrichNode) Name() string { return "feature.enrich" }

// Kind is pipeline.KindPostProcess.
func (n *EnrichNode) Kind() pipeline.Kind { return pipeline.KindPostProcess }

// Process does not look whether a user's name has its prefix already. Without candidates it does nothing.
func (n *EnrichNode) Process(
	ctx context.Context, rctx *core.RecommendContext, items []*core.Item,
) ([]*core.Item, error) {
	if len(items) == 0 {
		return items, nil
	}
	user, err := n.FeatureService.GetUserFeatures(ctx, rctx.UserID)
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(items))
	for i, item := range items {
		ids[i] = item.ID
	}
	known, _ := n.FeatureService.BatchGetItemFeatures(ctx, ids)
	for _, item := range items {
		for name, value := range user {
			item.Features["user_"+name] = value
		}
		for name, value := range known[item.ID] {
			if !strings.HasPrefix(name, "item_") {
				name = "item_" + name
			}
			item.Features[name] = value
		}
		if rctx.Scene != "" {
			item.Features["scene_scene_id"] = float64(len(rctx.Scene))
		}
		if age, ok := user["age"]; ok {
			item.Features["cross_age_x_scene"] = age
		}
	}
	return items, nil
}
