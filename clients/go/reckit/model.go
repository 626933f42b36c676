package reckit

import (
	"context"
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/rushteam/reckit/core"
	"github.com/rushteam/reckit/model"

	"github.com/twotower/twotower/clients/go/twotower"
)

// rankTimeout is long for a batch of some hundred candidates, and short enough for a pipeline to go on without.
const rankTimeout = time.Second

// scoreModel is the name that a request for scores may give.
const scoreModel = "score"

// NewRankModel makes a model.RankModel for rank.RPCNode, which sends all candidates in one call, and for
// rank.TwoTowerNode, which sends one after another. Rank does more for less: it scores by id, knows the user's texts,
// and bears candidates that the catalog lacks.
//
// The model splits each map that EnrichNode made: user_* and scene_* are the user, item_* and names without a prefix the
// item, cross_* is left out. The vector of each item is computed for the call. It is all or nothing: one candidate that
// is refused fails the call. Leave RPCNode.StripFeaturePrefix off: without prefixes nobody knows whose a feature is.
//
// timeout is that of a call, because Reckit gives it none; 0 = 1 s.
func NewRankModel(client *twotower.Client, timeout time.Duration) *model.RPCModel {
	if timeout <= 0 {
		timeout = rankTimeout
	}
	return model.NewRPCModelFromService(modelName, &scorer{client, timeout})
}

// scorer answers a map of features with a score. It is a type of its own because Reckit asks user towers and rankers by
// the same method, and says in nothing which it wants.
type scorer struct {
	client  *twotower.Client
	timeout time.Duration
}

func (s *scorer) Predict(ctx context.Context, req *core.MLPredictRequest) (*core.MLPredictResponse, error) {
	if err := checkPredict(req, scoreModel); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	requests, places := requestsOf(req)
	batch, err := s.score(ctx, requests)
	if err != nil {
		return nil, err
	}
	response := &core.MLPredictResponse{
		Predictions:  make([]float64, len(req.Features)),
		ModelVersion: batch[0].Release,
	}
	for i, scores := range batch {
		if err := firstError(core.ModuleService, scores.Errors); err != nil {
			return nil, err
		}
		if len(scores.Scores) != len(places[i]) {
			return nil, short(core.ModuleService)
		}
		for j, place := range places[i] {
			response.Predictions[place] = float64(scores.Scores[j])
		}
	}
	return response, nil
}

// score makes one call, whatever the number of users.
func (s *scorer) score(ctx context.Context, requests []*twotower.ScoreRequest) ([]*twotower.Scores, error) {
	if len(requests) == 1 {
		scores, err := s.client.Score(ctx, requests[0])
		return []*twotower.Scores{scores}, domainError(core.ModuleService, err)
	}
	batch, err := s.client.BatchScore(ctx, requests)
	if err != nil {
		return nil, domainError(core.ModuleService, err)
	}
	return batch.Scores, firstError(core.ModuleService, batch.Errors)
}

func (s *scorer) Health(ctx context.Context) error { return (&Service{client: s.client}).Health(ctx) }

func (s *scorer) Close(context.Context) error { return nil }

// requestsOf makes one request for each user, with the places of its items in the answer. Candidates of one pipeline
// have the same user.
func requestsOf(req *core.MLPredictRequest) (requests []*twotower.ScoreRequest, places [][]int) {
	byUser := map[string]int{}
	for place, features := range req.Features {
		user, item := split(features)
		key := contentOf(user)
		index, known := byUser[key]
		if !known {
			index = len(requests)
			byUser[key] = index
			requests = append(requests, &twotower.ScoreRequest{
				User:    &twotower.User{Features: user},
				Release: req.ModelVersion,
			})
			places = append(places, nil)
		}
		requests[index].Items = append(requests[index].Items, &twotower.Item{Features: item})
		places[index] = append(places[index], place)
	}
	return requests, places
}

func split(features map[string]float64) (user, item map[string]float64) {
	user, item = map[string]float64{}, map[string]float64{}
	for name, value := range features {
		switch {
		case strings.HasPrefix(name, "user_"), strings.HasPrefix(name, "scene_"):
			user[name] = value
		case strings.HasPrefix(name, "cross_"):
		default:
			item[name] = value
		}
	}
	return user, item
}

// contentOf is the same text for the same features.
func contentOf(features map[string]float64) string {
	var content []byte
	for _, name := range slices.Sorted(maps.Keys(features)) {
		content = append(append(content, name...), 0)
		content = binary.LittleEndian.AppendUint64(content, math.Float64bits(features[name]))
	}
	return string(content)
}
