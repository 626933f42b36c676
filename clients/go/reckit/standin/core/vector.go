package core

import "context"

// VectorService searches.
type VectorService interface {
	Search(ctx context.Context, req *VectorSearchRequest) (*VectorSearchResult, error)
	Close(ctx context.Context) error
}

// VectorSearchRequest says what to search for.
type VectorSearchRequest struct {
	Collection string
	Vector     []float64
	TopK       int
	Metric     string
	Filter     map[string]interface{}
	Params     map[string]interface{}
}

// VectorSearchItem is an item found.
type VectorSearchItem struct {
	ID       string
	Score    float64
	Distance float64
}

// VectorSearchResult is what was found, best first.
type VectorSearchResult struct {
	Items []VectorSearchItem
}

// MetricType names a metric.
type MetricType string

// The metrics.
const (
	MetricCosine       MetricType = "cosine"
	MetricEuclidean    MetricType = "euclidean"
	MetricInnerProduct MetricType = "inner_product"
)

// VectorDatabaseService changes collections.
type VectorDatabaseService interface {
	VectorService
	Insert(ctx context.Context, req *VectorInsertRequest) error
	Update(ctx context.Context, req *VectorUpdateRequest) error
	Delete(ctx context.Context, req *VectorDeleteRequest) error
	CreateCollection(ctx context.Context, req *VectorCreateCollectionRequest) error
	DropCollection(ctx context.Context, collection string) error
	HasCollection(ctx context.Context, collection string) (bool, error)
}

// VectorInsertRequest adds vectors.
type VectorInsertRequest struct {
	Collection string
	Vectors    [][]float64
	IDs        []string
	Metadata   []map[string]interface{}
}

// VectorUpdateRequest replaces one.
type VectorUpdateRequest struct {
	Collection string
	Vector     []float64
	ID         string
	Metadata   map[string]interface{}
}

// VectorDeleteRequest deletes some.
type VectorDeleteRequest struct {
	Collection string
	IDs        []string
}

// VectorCreateCollectionRequest creates a collection.
type VectorCreateCollectionRequest struct {
	Name      string
	Dimension int
	Metric    string
	Params    map[string]interface{}
}
