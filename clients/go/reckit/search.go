package reckit

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/rushteam/reckit/core"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
	"github.com/twotower/twotower/clients/go/twotower"
)

// aliases are the names of collections that mean the active release: the defaults of recall.TwoTowerRecall and of
// recall.ANN, and none.
var aliases = []string{"", "item_embeddings", "items"}

// Search finds the items nearest to a vector.
//
// A vector that Predict gave is searched for in the release that made it. Any other one is taken for a vector of the
// release that Collection names; "items", "item_embeddings" and "" mean the active release, for which the server is
// asked first. So a pipeline that stores vectors itself has to name their release as the collection. A name that is no
// loaded release is NOT_FOUND.
//
// Metric may be "inner_product", "cosine" or "", and always means the similarity of the release: Reckit's two sources
// have different defaults. Filter holds attributes that must equal a string, a number or a bool, or one of a []string or
// a []float64. Params are not read: how a release is searched was chosen when it was built. TopK 0 = 100.
//
// The result has Score = similarity and Distance = 1 - Score.
func (s *Service) Search(ctx context.Context, req *core.VectorSearchRequest) (*core.VectorSearchResult, error) {
	if req == nil {
		return nil, invalid(core.ModuleVector, "FIELD_REQUIRED: the request is nil")
	}
	if err := checkMetric(req.Metric); err != nil {
		return nil, err
	}
	filter, err := filterOf(req.Filter)
	if err != nil {
		return nil, err
	}
	embedding, err := s.embeddingOf(ctx, req.Collection, req.Vector)
	if err != nil {
		return nil, err
	}
	found, err := s.client.SearchItems(ctx, &twotower.SearchRequest{
		Embedding: embedding,
		Selection: twotower.Selection{K: req.TopK, Filter: filter},
	})
	if err != nil {
		return nil, domainError(core.ModuleVector, err)
	}
	result := &core.VectorSearchResult{Items: make([]core.VectorSearchItem, len(found.Items))}
	for i, item := range found.Items {
		similarity := float64(item.Similarity)
		result.Items[i] = core.VectorSearchItem{ID: item.ItemID, Score: similarity, Distance: 1 - similarity}
	}
	return result, nil
}

// embeddingOf gives a vector back its release.
func (s *Service) embeddingOf(ctx context.Context, collection string, vector []float64) (*twotower.Embedding, error) {
	release := s.made.release(vector)
	switch {
	case release == "":
		var err error
		if release, err = s.releaseOf(ctx, collection); err != nil {
			return nil, err
		}
	case !slices.Contains(aliases, collection) && collection != release:
		if err := s.mustHave(ctx, collection); err != nil {
			return nil, err
		}
		return nil, invalid(core.ModuleVector, fmt.Sprintf(
			"RELEASE_MISMATCH: the vector was made by release %q and cannot be compared with those of %q", release, collection))
	}
	return &twotower.Embedding{Values: floats(vector), Release: release}, nil
}

// releaseOf is the release that a collection means. Whether one that is named is loaded, the call shows that uses it.
func (s *Service) releaseOf(ctx context.Context, collection string) (string, error) {
	if !slices.Contains(aliases, collection) {
		return collection, nil
	}
	release, err := s.activeRelease(ctx)
	return release, domainError(core.ModuleVector, err)
}

func (s *Service) mustHave(ctx context.Context, collection string) error {
	has, err := s.HasCollection(ctx, collection)
	if err == nil && !has {
		return notFound(core.ModuleVector, fmt.Sprintf("no release %q is loaded", collection))
	}
	return err
}

func checkMetric(metric string) error {
	switch metric {
	case "", string(core.MetricInnerProduct), string(core.MetricCosine):
		return nil
	case string(core.MetricEuclidean):
		return notSupported(core.ModuleVector, "the metric is the release's similarity, which is never euclidean")
	default:
		return invalid(core.ModuleVector, fmt.Sprintf("the metric %q is unknown", metric))
	}
}

// filterOf is nil when there is nothing to filter by.
func filterOf(conditions map[string]interface{}) (*twotowerv1.Filter, error) {
	if len(conditions) == 0 {
		return nil, nil
	}
	parts := make([]twotower.FilterPart, 0, len(conditions))
	for _, name := range slices.Sorted(maps.Keys(conditions)) {
		attribute := twotower.Where(name)
		switch value := conditions[name].(type) {
		case string:
			parts = append(parts, attribute.In(value))
		case []string:
			parts = append(parts, attribute.In(value...))
		case bool:
			parts = append(parts, attribute.Is(value))
		case []float64:
			parts = append(parts, attribute.InNumbers(value...))
		default:
			number, ok := numberOf(value)
			if !ok {
				return nil, invalid(core.ModuleVector, fmt.Sprintf("FILTER_INVALID: the filter %q has a %T", name, value))
			}
			parts = append(parts, attribute.InNumbers(number))
		}
	}
	return twotower.AllOf(parts...), nil
}
