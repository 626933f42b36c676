package recall

import (
	"context"
	"errors"
	"fmt"

	"github.com/rushteam/reckit/core"
	"github.com/rushteam/reckit/pkg/utils"
)

// TwoTowerRecall embeds the user, then searches.
type TwoTowerRecall struct {
	FeatureService   core.FeatureService
	UserTowerService core.MLService
	VectorService    core.VectorService
	TopK             int
	Collection       string
	Metric           string
}

// TwoTowerRecallOption changes one.
type TwoTowerRecallOption func(*TwoTowerRecall)

// WithTwoTowerTopK sets how many are found.
func WithTwoTowerTopK(topK int) TwoTowerRecallOption {
	return func(r *TwoTowerRecall) { r.TopK = topK }
}

// NewTwoTowerRecall makes one.
func NewTwoTowerRecall(
	featureService core.FeatureService,
	userTowerService core.MLService,
	vectorService core.VectorService,
	opts ...TwoTowerRecallOption,
) *TwoTowerRecall {
	r := &TwoTowerRecall{featureService, userTowerService, vectorService, 100, "item_embeddings", "inner_product"}
	for _, opt := range opts {
		opt(r)
	}
	return r
}

// Name is the source's.
func (r *TwoTowerRecall) Name() string { return "recall.two_tower" }

// Recall passes the vector on without a release.
func (r *TwoTowerRecall) Recall(ctx context.Context, rctx *core.RecommendContext) ([]*core.Item, error) {
	features, err := r.FeatureService.GetUserFeatures(ctx, rctx.UserID)
	if err != nil {
		return nil, fmt.Errorf("get user features: %w", err)
	}
	resp, err := r.UserTowerService.Predict(ctx, &core.MLPredictRequest{Features: []map[string]float64{features}})
	if err != nil {
		return nil, fmt.Errorf("run user tower: %w", err)
	}
	if len(resp.Predictions) < 2 {
		return nil, errors.New("user tower returned single value")
	}
	result, err := r.VectorService.Search(ctx, &core.VectorSearchRequest{
		Collection: r.Collection, Vector: resp.Predictions, TopK: r.TopK, Metric: r.Metric,
	})
	if err != nil {
		return nil, fmt.Errorf("search vectors: %w", err)
	}
	return itemsOf(result, r.Metric), nil
}

// ANN searches for a vector of the context.
type ANN struct {
	VectorService core.VectorService
	Collection    string
	TopK          int
	Metric        string
}

// Name is the source's.
func (r *ANN) Name() string { return "recall.emb" }

// Recall has defaults of its own.
func (r *ANN) Recall(ctx context.Context, rctx *core.RecommendContext) ([]*core.Item, error) {
	vector, _ := rctx.Attributes["user_embedding"].([]float64)
	request := &core.VectorSearchRequest{Collection: r.Collection, Vector: vector, TopK: r.TopK, Metric: r.Metric}
	if request.TopK <= 0 {
		request.TopK = 10
	}
	if request.Metric == "" {
		request.Metric = "cosine"
	}
	if request.Collection == "" {
		request.Collection = "items"
	}
	result, err := r.VectorService.Search(ctx, request)
	if err != nil {
		return nil, err
	}
	return itemsOf(result, request.Metric), nil
}

func itemsOf(result *core.VectorSearchResult, metric string) []*core.Item {
	items := make([]*core.Item, len(result.Items))
	for i, found := range result.Items {
		items[i] = core.NewItem(found.ID)
		items[i].Score = found.Score
		items[i].PutLabel("recall_metric", utils.Label{Value: metric, Source: "recall"})
	}
	return items
}
