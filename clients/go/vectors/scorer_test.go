package vectors_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
	"github.com/twotower/twotower/clients/go/twotower"
	"github.com/twotower/twotower/clients/go/vectors"
)

func dial(t testing.TB) *twotower.Client {
	t.Helper()
	client, err := twotower.Dial(t.Context(), variable(t, targetVariable), twotower.WithTimeout(time.Minute), twotower.WithReady())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func someone(number int) *twotower.User {
	return &twotower.User{
		ID:             fmt.Sprint("u", number),
		Features:       map[string]float64{"age": float64(18 + number%60), "interest_film": float64(number%10) / 10},
		StringFeatures: map[string][]string{"gender": {"f"}, "recent_clicks": {fmt.Sprint("i", number)}},
	}
}

// candidates: every item of the catalog, two that it lacks, and one twice.
func candidates() []string {
	ids := []string{"gone"}
	for i := range 300 {
		ids = append(ids, fmt.Sprint("i", i))
	}
	return append(ids, "i7", "")
}

// same compares what the package answers with what RPC Score does.
func same(t *testing.T, got, want *twotower.Scores) {
	t.Helper()
	if got.Release != want.Release || !slices.Equal(got.Missing, want.Missing) || len(got.Scores) != len(want.Scores) {
		t.Fatalf("of %s, %d scores without %v; the server says %s, %d without %v",
			got.Release, len(got.Scores), got.Missing, want.Release, len(want.Scores), want.Missing)
	}
	for i := range want.Scores {
		if math.Abs(float64(got.Scores[i]-want.Scores[i])) > 1e-6 {
			t.Fatalf("%s: score %v, the server says %v", got.ItemIDs[i], got.Scores[i], want.Scores[i])
		}
		if math.Abs(float64(got.Similarities[i]-want.Similarities[i])) > 1e-6*(1+math.Abs(float64(want.Similarities[i]))) {
			t.Fatalf("%s: similarity %v, the server says %v", got.ItemIDs[i], got.Similarities[i], want.Similarities[i])
		}
	}
}

func TestScoresEqualTheServers(t *testing.T) {
	client, ctx, ids := dial(t), t.Context(), candidates()
	for _, release := range []string{"dot", "cosine"} {
		if _, err := client.Releases().LoadAndWait(ctx, release); err != nil {
			t.Fatal(err)
		}
	}
	for name, store := range map[string]redis.UniversalClient{"standalone": standalone(t), "cluster": cluster(t)} {
		for _, release := range []string{"dot", "cosine"} {
			t.Run(name+" "+release, func(t *testing.T) {
				scorer, distinct := vectors.NewScorer(client, vectors.NewReader(store)), map[float32]bool{}
				for number := range 50 {
					user, err := client.PinTo(release).EmbedUser(ctx, someone(number))
					if err != nil {
						t.Fatal(err)
					}
					vector := user.Embedding
					if number%2 == 1 { // one that the caller has made
						vector.Values = slices.Clone(vector.Values)
						for i := range vector.Values {
							vector.Values[i] *= 1.5
						}
					}
					want, err := client.Score(ctx, &twotower.ScoreRequest{Embedding: &vector, ItemIDs: ids})
					if err != nil {
						t.Fatal(err)
					}
					got, err := scorer.Score(ctx, &vector, ids)
					if err != nil {
						t.Fatal(err)
					}
					same(t, got, want)
					if missing := []int{0, 302}; !slices.Equal(got.Missing, missing) {
						t.Fatal(got.Missing)
					}
					distinct[got.Scores[1]] = true
					found, err := client.Recommend(ctx, &twotower.RecommendRequest{Embedding: &vector, Selection: twotower.Selection{K: 20}})
					if err != nil {
						t.Fatal(err)
					}
					for i, item := range vectors.Top(withoutTwice(got), 20) {
						if math.Abs(float64(item.Similarity-found.Items[i].Similarity)) > 1e-5 {
							t.Fatalf("place %d: %v, Recommend says %v", i, item, found.Items[i])
						}
					}
				}
				if len(distinct) < 40 {
					t.Errorf("50 users have %d scores", len(distinct))
				}
			})
		}
	}
}

// withoutTwice leaves out i7's second place.
func withoutTwice(scores *twotower.Scores) *twotower.Scores {
	return &twotower.Scores{
		Scores: scores.Scores[:301], Similarities: scores.Similarities[:301], ItemIDs: scores.ItemIDs[:301], Missing: scores.Missing[:1],
	}
}

func TestAVectorOfTheReleaseBeforeMeetsItsOwnItems(t *testing.T) {
	client, store, ctx, ids := dial(t), standalone(t), t.Context(), candidates()
	if _, err := client.Releases().LoadAndWait(ctx, "cosine"); err != nil {
		t.Fatal(err)
	}
	scorer := vectors.NewScorer(client, vectors.NewReader(store))
	before, err := client.EmbedUser(ctx, someone(1))
	if err != nil || before.Release != "dot" {
		t.Fatal(before, err)
	}
	want, err := client.Score(ctx, &twotower.ScoreRequest{Embedding: &before.Embedding, ItemIDs: ids})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Releases().Activate(ctx, "cosine", "dot"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = client.Releases().Rollback(context.Background(), "cosine") })
	after, err := client.EmbedUser(ctx, someone(1))
	if err != nil || after.Release != "cosine" {
		t.Fatal(after, err)
	}
	old, err := scorer.Score(ctx, &before.Embedding, ids)
	if err != nil {
		t.Fatal(err)
	}
	same(t, old, want)
	now, err := scorer.Score(ctx, &after.Embedding, ids)
	if err != nil || now.Release != "cosine" || len(now.Missing) != 2 {
		t.Fatal(now, err)
	}
	if want, err = client.Score(ctx, &twotower.ScoreRequest{Embedding: &after.Embedding, ItemIDs: ids}); err != nil {
		t.Fatal(err)
	}
	same(t, now, want)
}

func TestItemsOfAReleaseThatRedisLacksAreMissing(t *testing.T) {
	client, ctx, ids := dial(t), t.Context(), candidates()
	user, err := client.EmbedUser(ctx, someone(1))
	if err != nil {
		t.Fatal(err)
	}
	empty := vectors.NewReader(standalone(t), vectors.WithPrefix("never-pushed:"))
	scores, err := vectors.NewScorer(client, empty).Score(ctx, &user.Embedding, ids)
	if err != nil || len(scores.Missing) != len(ids) {
		t.Fatal(scores, err)
	}
	for i := range ids {
		if scores.Scores[i] != 0 || scores.Similarities[i] != 0 {
			t.Error(ids[i], scores.Scores[i])
		}
	}
	if best := vectors.Top(scores, 10); len(best) != 0 {
		t.Error(best)
	}
}

func TestTheVectorOfAUserThatTheServerHasCached(t *testing.T) {
	client, ctx := dial(t), t.Context()
	user := someone(5)
	user.ID, user.FeatureVersion = "cached: 1", "v1"
	want, err := client.EmbedUser(ctx, user)
	if err != nil {
		t.Fatal(err)
	}
	reader, deadline := vectors.NewReader(standalone(t)), time.Now().Add(time.Minute)
	for { // the server writes it soon
		got, err := reader.User(ctx, want.Release, "v1", user.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got != nil {
			if !slices.Equal(got.Values, want.Values) {
				t.Errorf("%v, want %v", got.Values, want.Values)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the server has not written it")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestWhatTheServerWouldRefuseIsRefusedHere(t *testing.T) {
	client, ctx := dial(t), t.Context()
	scorer := vectors.NewScorer(client, vectors.NewReader(standalone(t)))
	user, err := client.EmbedUser(ctx, someone(1))
	if err != nil {
		t.Fatal(err)
	}
	values := user.Values
	broken := slices.Clone(values)
	broken[3] = float32(math.Inf(1))
	for _, test := range []struct {
		vector *twotower.Embedding
		want   error
	}{
		{&twotower.Embedding{Values: broken, Release: "dot"}, twotower.ErrValueNotFinite},
		{&twotower.Embedding{Values: values, Release: "gone"}, twotower.ErrReleaseNotLoaded},
		{&twotower.Embedding{Release: "dot"}, twotower.ErrDimensionMismatch},
		{&twotower.Embedding{Values: values}, twotower.ErrFieldRequired},
		{&twotower.Embedding{Values: values[1:], Release: "dot"}, twotower.ErrDimensionMismatch},
	} {
		var here, there *twotower.Error
		_, err := scorer.Score(ctx, test.vector, []string{"i1"})
		_, wire := client.Score(ctx, &twotower.ScoreRequest{Embedding: test.vector, ItemIDs: []string{"i1"}})
		if !errors.Is(err, test.want) || !errors.Is(wire, test.want) || !errors.As(err, &here) || !errors.As(wire, &there) {
			t.Errorf("%v; the server says %v", err, wire)
			continue
		}
		if here.Code != there.Code || here.Field != there.Field {
			t.Errorf("%v of %q; the server says %v of %q", here.Code, here.Field, there.Code, there.Field)
		}
	}
	if _, err := scorer.Score(ctx, nil, []string{"i1"}); !errors.Is(err, twotower.ErrFieldRequired) {
		t.Error(err)
	}
}

func TestTheServerIsAskedOnceForEachRelease(t *testing.T) {
	asked := &counting{Server: dial(t)}
	scorer, group := vectors.NewScorer(asked, vectors.NewReader(standalone(t))), sync.WaitGroup{}
	user, err := dial(t).EmbedUser(t.Context(), someone(1))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := scorer.Score(t.Context(), &user.Embedding, []string{"i1"}); err != nil {
			t.Fatal(err)
		}
	}
	if asked.times != 1 {
		t.Errorf("it was asked %d times", asked.times)
	}
	for number := range 16 { // for the race detector
		group.Add(1)
		go func() {
			defer group.Done()
			for range 20 {
				ids := []string{"i1", fmt.Sprint("i", number), "gone"}
				if scores, err := scorer.Score(t.Context(), &user.Embedding, ids); err != nil || !slices.Equal(scores.Missing, []int{2}) {
					t.Error(scores, err)
				}
			}
		}()
	}
	group.Wait()
}

type counting struct {
	vectors.Server
	times int
}

func (c *counting) ServingInfo(ctx context.Context) (*twotowerv1.GetServingInfoResponse, error) {
	c.times++
	return c.Server.ServingInfo(ctx)
}
