// Command pipeline is the pipeline of Reckit's two-tower guide on a twotower server: recall, features, rank.
//
//	go run ./examples/pipeline localhost:50051
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/rushteam/reckit/core"
	"github.com/rushteam/reckit/feature"
	"github.com/rushteam/reckit/pipeline"
	"github.com/rushteam/reckit/recall"

	"github.com/twotower/twotower/clients/go/reckit"
	"github.com/twotower/twotower/clients/go/twotower"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: pipeline HOST:PORT")
	}
	if err := run(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(target string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, err := twotower.Dial(ctx, target)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()

	p := &pipeline.Pipeline{Nodes: []pipeline.Node{
		&recall.Fanout{
			Sources: []recall.Source{
				&reckit.Recall{Client: client, Selection: twotower.Selection{K: 8}},
				&recall.SortedSetRecall{IDs: []string{"i1", "i2", "i3", "not-in-the-catalog"}, NodeName: "recall.hot"},
			},
			Dedup: true,
			ErrorHandler: &recall.IgnoreErrorHandler{OnError: func(source recall.Source, err error) {
				log.Printf("%s: %v", source.Name(), err)
			}},
		},
		// Behind the recall: without candidates it adds nothing.
		&feature.EnrichNode{FeatureService: profile{"age": 25, "interest_tech": 0.8, "interest_game": 0.6}},
		&reckit.Rank{Client: client},
	}}
	items, err := p.Run(ctx, &core.RecommendContext{
		UserID: "user_123",
		Scene:  "feed",
		Attributes: map[string]any{
			"age": 25, "gender": "m", "interest_tech": 0.8, "interest_game": 0.6,
			"recent_clicks": []string{"i7", "i9"}, // sequences have no place in Reckit's maps of numbers
		},
		Params: map[string]any{"hour": time.Now().Hour()},
	}, nil)
	if err != nil {
		return err
	}
	for i, item := range items {
		score := fmt.Sprintf("%.4g", item.Score)
		if _, missing := item.Labels[reckit.LabelMissing]; missing {
			score = "missing"
		}
		fmt.Printf("%3d. %-20s score %-10s from %s\n", i+1, item.ID, score, item.Labels["recall_source"].Value)
	}
	return nil
}

// profile is a feature service that knows one user.
type profile map[string]float64

func (p profile) Name() string { return "profile" }

func (p profile) GetUserFeatures(context.Context, string) (map[string]float64, error) { return p, nil }

func (p profile) BatchGetUserFeatures(_ context.Context, userIDs []string) (map[string]map[string]float64, error) {
	users := map[string]map[string]float64{}
	for _, id := range userIDs {
		users[id] = p
	}
	return users, nil
}

func (p profile) GetItemFeatures(context.Context, string) (map[string]float64, error) {
	return nil, nil
}

func (p profile) BatchGetItemFeatures(context.Context, []string) (map[string]map[string]float64, error) {
	return nil, nil
}

func (p profile) GetRealtimeFeatures(context.Context, string, string) (map[string]float64, error) {
	return nil, nil
}

func (p profile) BatchGetRealtimeFeatures(
	context.Context, []core.FeatureUserItemPair,
) (map[core.FeatureUserItemPair]map[string]float64, error) {
	return nil, nil
}

func (p profile) Close(context.Context) error { return nil }
