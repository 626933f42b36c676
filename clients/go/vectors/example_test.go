package vectors_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/twotower/twotower/clients/go/twotower"
	"github.com/twotower/twotower/clients/go/vectors"
)

// TestExamplesRun runs every example against the real server and Redis; each panics where a call fails.
func TestExamplesRun(t *testing.T) {
	variable(t, targetVariable)
	variable(t, redisVariable)
	Example()
	ExampleReader_Items()
}

// target of the examples: the server of `make run`, or that of the tests.
func target() string {
	if named := os.Getenv(targetVariable); named != "" {
		return named
	}
	return "localhost:50051"
}

func redisOptions() *redis.Options {
	options, err := redis.ParseURL(os.Getenv(redisVariable))
	if err != nil {
		options = &redis.Options{Addr: "localhost:6379"}
	}
	options.ReadTimeout = time.Second
	return options
}

// One call for the user, then only dot products.
func Example() {
	ctx := context.Background()
	client, err := twotower.Dial(ctx, target(), twotower.WithTimeout(10*time.Second))
	if err != nil {
		log.Panic(err)
	}
	defer client.Close()
	store := redis.NewClient(redisOptions())
	defer store.Close()
	scorer := vectors.NewScorer(client, vectors.NewReader(store)) // keep both, share them

	user, err := client.EmbedUser(ctx, &twotower.User{ID: "u1", Features: map[string]float64{"age": 34}})
	if err != nil {
		log.Panic(err)
	}
	scores, err := scorer.Score(ctx, &user.Embedding, []string{"i1", "i2", "gone"})
	if err != nil {
		log.Panic(err)
	}
	for _, item := range vectors.Top(scores, 2) {
		fmt.Println(item.ItemID, item.Score)
	}
}

func ExampleReader_Items() {
	ctx := context.Background()
	store := redis.NewClient(redisOptions())
	defer store.Close()
	reader := vectors.NewReader(store, vectors.WithCacheBytes(256<<20))

	items, err := reader.Items(ctx, "2026-05-01", 64, []string{"i1", "i2"})
	var value *vectors.ValueError
	switch {
	case errors.As(err, &value):
		fmt.Println("push the release again:", value.Key, value.Problem)
	case err != nil:
		log.Panic(err)
	default:
		fmt.Println(items[0] == nil) // Redis has no such item of that release
	}
}
