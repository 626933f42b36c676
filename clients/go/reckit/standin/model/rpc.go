// Package model has what ranks.
package model

import (
	"context"
	"errors"
	"fmt"

	"github.com/rushteam/reckit/core"
)

// RankModel scores one map of features.
type RankModel interface {
	Name() string
	Predict(features map[string]float64) (float64, error)
}

// RPCModel asks a service.
type RPCModel struct {
	name    string
	Service core.MLService
}

// NewRPCModelFromService makes one.
func NewRPCModelFromService(name string, svc core.MLService) *RPCModel {
	return &RPCModel{name: name, Service: svc}
}

// Name is the model's.
func (m *RPCModel) Name() string { return m.name }

// Predict is PredictBatch of one.
func (m *RPCModel) Predict(features map[string]float64) (float64, error) {
	scores, err := m.PredictBatch([]map[string]float64{features})
	if err != nil {
		return 0, err
	}
	return scores[0], nil
}

// PredictBatch returns what comes, however short, and takes a single score for that of all.
func (m *RPCModel) PredictBatch(featuresList []map[string]float64) ([]float64, error) {
	if len(featuresList) == 0 {
		return []float64{}, nil
	}
	resp, err := m.Service.Predict(context.Background(), &core.MLPredictRequest{Features: featuresList})
	if err != nil {
		return nil, fmt.Errorf("ml service predict: %w", err)
	}
	switch len(resp.Predictions) {
	case 0:
		return nil, errors.New("empty predictions from ml service")
	case 1:
		scores := make([]float64, len(featuresList))
		for i := range scores {
			scores[i] = resp.Predictions[0]
		}
		return scores, nil
	}
	return resp.Predictions, nil
}
