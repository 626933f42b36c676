package core

import "context"

// MLService predicts.
type MLService interface {
	Predict(ctx context.Context, req *MLPredictRequest) (*MLPredictResponse, error)
	Health(ctx context.Context) error
	Close(ctx context.Context) error
}

// MLPredictRequest is features of users, or of pairs.
type MLPredictRequest struct {
	Instances     [][]float64
	Features      []map[string]float64
	ModelName     string
	ModelVersion  string
	SignatureName string
	Params        map[string]interface{}
}

// MLPredictResponse is a vector, or scores.
type MLPredictResponse struct {
	Predictions  []float64
	Outputs      interface{}
	ModelVersion string
}

// FeatureUserItemPair names a pair.
type FeatureUserItemPair struct {
	UserID string
	ItemID string
}

// FeatureService knows features.
type FeatureService interface {
	Name() string
	GetUserFeatures(ctx context.Context, userID string) (map[string]float64, error)
	BatchGetUserFeatures(ctx context.Context, userIDs []string) (map[string]map[string]float64, error)
	GetItemFeatures(ctx context.Context, itemID string) (map[string]float64, error)
	BatchGetItemFeatures(ctx context.Context, itemIDs []string) (map[string]map[string]float64, error)
	GetRealtimeFeatures(ctx context.Context, userID, itemID string) (map[string]float64, error)
	BatchGetRealtimeFeatures(
		ctx context.Context, pairs []FeatureUserItemPair,
	) (map[FeatureUserItemPair]map[string]float64, error)
	Close(ctx context.Context) error
}
