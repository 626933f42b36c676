package vectors_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
	"github.com/twotower/twotower/clients/go/twotower"
	"github.com/twotower/twotower/clients/go/vectors"
)

const benchDimension, benchCandidates, benchUsers = 64, 500, 20

var benchSink float32

func BenchmarkDot(b *testing.B) {
	user, items := random(1, benchDimension), benchItems()
	for b.Loop() {
		for _, item := range items {
			benchSink += vectors.Dot(user, item)
		}
	}
}

func BenchmarkScore(b *testing.B) {
	user, items, calibration := random(1, benchDimension), benchItems(), vectors.Calibration{Scale: 0.3, Bias: -0.5}
	for b.Loop() {
		for _, item := range items {
			benchSink += calibration.Score(vectors.Dot(user, item))
		}
	}
}

func BenchmarkTop100(b *testing.B) {
	scores := &twotower.Scores{}
	for i, similarity := range random(1, benchCandidates) {
		scores.ItemIDs = append(scores.ItemIDs, fmt.Sprint("i", i))
		scores.Similarities, scores.Scores = append(scores.Similarities, similarity), append(scores.Scores, 0.5)
	}
	for b.Loop() {
		vectors.Top(scores, 100)
	}
}

func benchItems() [][]float32 {
	items := make([][]float32, benchCandidates)
	for i := range items {
		items[i] = random(uint64(i+2), benchDimension)
	}
	return items
}

// BenchmarkFlow scores 500 candidates of a user, one call after another, in several ways that take turns: by one RPC
// Score, and by RPC GetUserEmbedding, Redis and dot products here. `python -m bench.go_vectors` starts what it needs.
func BenchmarkFlow(b *testing.B) {
	client := dial(b)
	users, candidates := benchCalls(b, client)
	embed := func(call int) *twotower.Embedding {
		user, err := client.EmbedUser(b.Context(), users[call])
		if err != nil {
			b.Fatal(err)
		}
		return &user.Embedding
	}
	score := func(scorer *vectors.Scorer) func(int) {
		return func(call int) {
			scores, err := scorer.Score(b.Context(), embed(call), candidates[call])
			if err != nil || len(scores.Missing) > 0 {
				b.Fatal(scores, err)
			}
			vectors.Top(scores, 100)
		}
	}
	ways := []struct {
		name string
		call func(int)
		took []float64 // microseconds
	}{
		{name: "rpc", call: func(call int) {
			scores, err := client.Score(b.Context(), &twotower.ScoreRequest{User: users[call], ItemIDs: candidates[call]})
			if err != nil || len(scores.Missing) > 0 {
				b.Fatal(scores, err)
			}
			vectors.Top(scores, 100)
		}},
		{name: "embedding", call: func(call int) { embed(call) }},
		{name: "near", call: score(vectors.NewScorer(client, vectors.NewReader(standalone(b))))},
	}
	stores := map[string]redis.UniversalClient{"redis": standalone(b)}
	if os.Getenv(clusterVariable) != "" {
		stores["cluster"] = cluster(b)
	}
	for name, store := range stores {
		ways = append(ways, struct {
			name string
			call func(int)
			took []float64
		}{name: name, call: score(vectors.NewScorer(client, vectors.NewReader(store, vectors.WithCacheBytes(0))))})
	}
	for call := range 5 * benchUsers { // connections, and the near-cache
		for i := range ways {
			ways[i].call(call % benchUsers)
		}
	}
	call := 0
	for b.Loop() {
		for turn := range ways {
			way := &ways[(turn+call)%len(ways)]
			start := time.Now()
			way.call(call % benchUsers)
			way.took = append(way.took, float64(time.Since(start).Microseconds()))
		}
		call++
	}
	b.ReportMetric(0, "ns/op")
	for _, way := range ways {
		slices.Sort(way.took)
		b.ReportMetric(way.took[len(way.took)/2], way.name+"-p50-µs")
		b.ReportMetric(way.took[len(way.took)*99/100], way.name+"-p99-µs")
	}
}

// benchCalls makes users of every numeric feature, and for each the candidates that suit another one.
func benchCalls(b *testing.B, client *twotower.Client) (users []*twotower.User, candidates [][]string) {
	info, err := client.ServingInfo(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	active := slices.IndexFunc(info.GetReleases(), func(one *twotowerv1.ReleaseInfo) bool {
		return one.GetRelease() == info.GetActiveRelease()
	})
	names, source := info.GetReleases()[active].GetUserSchema().GetDenseOrder(), rand.New(rand.NewPCG(3, 7))
	for range benchUsers {
		user := &twotower.User{Features: map[string]float64{}}
		for _, name := range names {
			user.Features[name] = source.NormFloat64()
		}
		found, err := client.Recommend(b.Context(), &twotower.RecommendRequest{
			User: user, Selection: twotower.Selection{K: benchCandidates},
		})
		if err != nil {
			b.Fatal(err)
		}
		users, candidates = append(users, user), append(candidates, found.ItemIDs())
	}
	return users, append(candidates[1:], candidates[0])
}
