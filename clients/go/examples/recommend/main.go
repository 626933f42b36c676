// Command recommend shows the calls of a recommendation pipeline: what is served, a user's embedding, the best items of
// the catalog, and scores of known items.
//
//	go run ./examples/recommend localhost:50051 [ITEM_ID ...]
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/twotower/twotower/clients/go/twotower"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("usage: recommend HOST:PORT [ITEM_ID ...]")
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		log.Fatal(err)
	}
}

// run calls the server at target. Without item ids it scores what was recommended.
func run(target string, itemIDs []string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, err := twotower.Dial(ctx, target)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()

	info, err := client.ServingInfo(ctx)
	if err != nil {
		return fmt.Errorf("what is served: %w", err)
	}
	for _, release := range info.GetReleases() {
		fmt.Printf("release %s: %d items, dimension %d, active %t\n",
			release.GetRelease(), release.GetItems(), release.GetDimension(), release.GetActive())
	}

	user := &twotower.User{
		ID:             "u1",
		Features:       map[string]float64{"user_age": 34, "user_interest_sport": 0.8},
		StringFeatures: map[string][]string{"user_gender": {"f"}},
	}
	embedded, err := client.EmbedUser(ctx, user)
	if err != nil {
		return fmt.Errorf("the user's embedding: %w", err)
	}
	fmt.Printf("user %s: %d values by release %s, %d features used\n",
		user.ID, len(embedded.Values), embedded.Release, embedded.FeatureUse.GetUsed())

	// The embedding names its release, so these calls are served by the one that computed it.
	best, err := client.Recommend(ctx, &twotower.RecommendRequest{
		Embedding: &embedded.Embedding,
		Selection: twotower.Selection{K: 5},
	})
	if err != nil {
		return fmt.Errorf("recommending: %w", err)
	}
	for rank, item := range best.Items {
		fmt.Printf("recommended %d: %s score %.4f\n", rank+1, item.ItemID, item.Score)
	}

	if len(itemIDs) == 0 {
		itemIDs = best.ItemIDs()
	}
	scored, err := client.Score(ctx, &twotower.ScoreRequest{Embedding: &embedded.Embedding, ItemIDs: itemIDs})
	if err != nil {
		return fmt.Errorf("scoring: %w", err)
	}
	for i, id := range itemIDs {
		fmt.Printf("scored %s: %.4f\n", id, scored.Scores[i])
	}
	return nil
}
