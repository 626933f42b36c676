package twotower_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"testing"
	"time"

	"github.com/twotower/twotower/clients/go/twotower"
)

// target of the examples: the server of `make run`, or that of the tests.
func target() string {
	if named := os.Getenv(targetVariable); named != "" {
		return named
	}
	return "localhost:50051"
}

// TestExamplesRun runs every example against the real server; each panics where a call fails.
func TestExamplesRun(t *testing.T) {
	dial(t)
	for name, example := range map[string]func(){
		"Example": Example, "Client_Pin": ExampleClient_Pin, "Client_GetUserEmbedding": ExampleClient_GetUserEmbedding,
		"Client_EmbedUsers": ExampleClient_EmbedUsers, "Client_Score": ExampleClient_Score,
		"Client_Recommend": ExampleClient_Recommend, "Error": ExampleError,
	} {
		t.Log(name)
		example()
	}
}

func Example() {
	ctx := context.Background()
	client, err := twotower.Dial(ctx, target(), twotower.WithTimeout(10*time.Second))
	if err != nil {
		log.Panic(err)
	}
	defer client.Close()

	found, err := client.Recommend(ctx, &twotower.RecommendRequest{
		User: &twotower.User{
			ID:             "u1",
			Features:       map[string]float64{"age": 34, "interest_sport": 0.8},
			StringFeatures: map[string][]string{"gender": {"f"}},
		},
		Selection: twotower.Selection{K: 5, ReturnAttributes: []string{"title"}},
	})
	if err != nil {
		log.Panic(err)
	}
	for _, item := range found.Items {
		fmt.Println(item.ItemID, item.Score, item.Attributes["title"])
	}
}

// A pinned view keeps the calls of one flow at one release, whatever is activated meanwhile.
func ExampleClient_Pin() {
	ctx := context.Background()
	client, err := twotower.Dial(ctx, target(), twotower.WithTimeout(10*time.Second))
	if err != nil {
		log.Panic(err)
	}
	defer client.Close()

	pinned, err := client.Pin(ctx)
	if err != nil {
		log.Panic(err)
	}
	user, err := pinned.GetUserEmbedding(ctx, map[string]float64{"age": 34})
	if err != nil {
		log.Panic(err)
	}
	items, err := pinned.ItemEmbeddings(ctx, []string{"i1", "i2"})
	if err != nil {
		log.Panic(err)
	}
	fmt.Println(user.Release == items.Release) // the vectors can be compared
}

func ExampleClient_GetUserEmbedding() {
	ctx := context.Background()
	client, err := twotower.Dial(ctx, target(), twotower.WithTimeout(10*time.Second))
	if err != nil {
		log.Panic(err)
	}
	defer client.Close()

	user, err := client.GetUserEmbedding(ctx, map[string]float64{"age": 34, "interest_sport": 0.8})
	if err != nil {
		log.Panic(err)
	}
	fmt.Println(len(user.Values), user.Release)
}

// A bad entry of a batch fails alone.
func ExampleClient_EmbedUsers() {
	ctx := context.Background()
	client, err := twotower.Dial(ctx, target(), twotower.WithTimeout(10*time.Second))
	if err != nil {
		log.Panic(err)
	}
	defer client.Close()

	batch, err := client.EmbedUsers(ctx, []*twotower.User{
		{Features: map[string]float64{"age": 34}},
		{Features: map[string]float64{"agee": 51}},
	})
	if err != nil {
		log.Panic(err)
	}
	for i, user := range batch.Embeddings {
		if err := batch.Errors[i]; err != nil {
			fmt.Println(i, err.Reason, err.Field)
			continue
		}
		fmt.Println(i, len(user.Values))
	}
}

func ExampleClient_Score() {
	ctx := context.Background()
	client, err := twotower.Dial(ctx, target(), twotower.WithTimeout(10*time.Second))
	if err != nil {
		log.Panic(err)
	}
	defer client.Close()

	scores, err := client.Score(ctx, &twotower.ScoreRequest{
		User:    &twotower.User{ID: "u1", Features: map[string]float64{"age": 34}},
		ItemIDs: []string{"i1", "i2", "gone"},
	})
	if err != nil {
		log.Panic(err)
	}
	for _, i := range scores.Order() { // best first, missing ones last
		fmt.Println(scores.ItemIDs[i], scores.Scores[i])
	}
}

func ExampleClient_Recommend() {
	ctx := context.Background()
	client, err := twotower.Dial(ctx, target(), twotower.WithTimeout(10*time.Second))
	if err != nil {
		log.Panic(err)
	}
	defer client.Close()

	found, err := client.Recommend(ctx, &twotower.RecommendRequest{
		User: &twotower.User{Features: map[string]float64{"age": 34}},
		Selection: twotower.Selection{
			K: 10,
			Filter: twotower.AllOf(
				twotower.Where("price").LessThan(50),
				twotower.AnyOf(twotower.Where("category").In("books", "film"), twotower.Where("in_stock").Is(true)),
			),
			ExcludeItemIDs: []string{"i7", "i9"},
		},
	})
	if err != nil {
		log.Panic(err)
	}
	fmt.Println(found.ItemIDs())
}

func ExampleError() {
	ctx := context.Background()
	client, err := twotower.Dial(ctx, target(), twotower.WithTimeout(10*time.Second))
	if err != nil {
		log.Panic(err)
	}
	defer client.Close()

	_, err = client.PinTo("2019-01-01").GetUserEmbedding(ctx, map[string]float64{"age": 34})
	switch {
	case errors.Is(err, twotower.ErrReleaseNotLoaded):
		fmt.Println("the release was retired: pin another")
	case errors.Is(err, twotower.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		fmt.Println("show something that needs no server")
	case err != nil:
		var refused *twotower.Error
		if errors.As(err, &refused) {
			fmt.Println(refused.Reason, refused.Field, refused.Message)
		}
	}
}
