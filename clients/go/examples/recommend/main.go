// Command recommend shows the calls of a recommendation pipeline through the generated stubs: what is served, a
// user's embedding, scores of known items, and the best items of the catalog.
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

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
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

// run calls the server at target. Without item ids it scores what Recommend found.
func run(target string, itemIDs []string) (err error) {
	connection, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, connection.Close()) }()
	client := twotowerv1.NewTwoTowerServiceClient(connection)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	info, err := client.GetServingInfo(ctx, &twotowerv1.GetServingInfoRequest{})
	if err != nil {
		return fmt.Errorf("GetServingInfo: %w", err)
	}
	for _, release := range info.Releases {
		fmt.Printf("release %s: %d items, dimension %d, active %t\n",
			release.Release, release.Items, release.Dimension, release.Active)
	}

	user := &twotowerv1.User{
		UserId:   "u1",
		Features: map[string]float64{"user_age": 34, "user_interest_sport": 0.8},
		StringFeatures: map[string]*twotowerv1.StringList{
			"user_gender": {Values: []string{"f"}},
		},
	}
	embedded, err := client.GetUserEmbedding(ctx, &twotowerv1.GetUserEmbeddingRequest{User: user})
	if err != nil {
		return fmt.Errorf("GetUserEmbedding: %w", err)
	}
	fmt.Printf("user %s: %d values by release %s, %d features used\n",
		user.UserId, len(embedded.Embedding.Values), embedded.Release, embedded.FeatureUse.GetUsed())

	// The embedding names its release, so these calls are served by the one that computed it.
	best, err := client.Recommend(ctx, &twotowerv1.RecommendRequest{Embedding: embedded.Embedding, K: 5})
	if err != nil {
		return fmt.Errorf("Recommend: %w", err)
	}
	for rank, item := range best.Items {
		fmt.Printf("recommended %d: %s score %.4f\n", rank+1, item.ItemId, item.Score)
	}

	if len(itemIDs) == 0 {
		for _, item := range best.Items {
			itemIDs = append(itemIDs, item.ItemId)
		}
	}
	scored, err := client.Score(ctx, &twotowerv1.ScoreRequest{Embedding: embedded.Embedding, ItemIds: itemIDs})
	if err != nil {
		return fmt.Errorf("Score: %w", err)
	}
	for i, id := range itemIDs {
		fmt.Printf("scored %s: %.4f\n", id, scored.Scores[i])
	}
	return nil
}
