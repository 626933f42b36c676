package twotower_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
	"github.com/twotower/twotower/clients/go/twotower"
)

// The tests of this file call a real server of the releases `dot` (active) and `cosine`, which
// tests/go/test_go_client.py starts before it runs them.
const targetVariable = "TWOTOWER_TEST_TARGET"

func dial(t *testing.T, opts ...twotower.Option) *twotower.Client {
	t.Helper()
	target := os.Getenv(targetVariable)
	if target == "" {
		t.Skip(targetVariable + " names no server: run by `make test-python`, which starts one")
	}
	client, err := twotower.Dial(t.Context(), target, append(
		[]twotower.Option{twotower.WithTimeout(time.Minute), twotower.WithReady()}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func someone(number int) *twotower.User {
	return &twotower.User{
		ID:             fmt.Sprint("u", number),
		Features:       map[string]float64{"age": float64(20 + number%50), "user_hour": float64(number % 24), "interest_film": 0.5},
		StringFeatures: map[string][]string{"gender": {"f"}, "recent_clicks": {"i7", fmt.Sprint("i", number)}},
	}
}

func near(t *testing.T, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) || len(got) == 0 {
		t.Errorf("%s: %d values, want %d", what, len(got), len(want))
		return
	}
	for i := range got {
		if math.Abs(float64(got[i]-want[i])) > 1e-5 {
			t.Errorf("%s: value %d is %v, want %v", what, i, got[i], want[i])
			return
		}
	}
}

func TestEveryWayToEmbedUsersGivesTheSameVectors(t *testing.T) {
	plain, dense := dial(t, twotower.WithoutCoalescing()), dial(t, twotower.WithDenseFeatures())
	coalescing, ctx := dial(t), t.Context()
	users := make([]*twotower.User, 300)
	for i := range users {
		users[i] = someone(i)
	}
	batch, err := plain.EmbedUsers(ctx, users)
	if err != nil || batch.Errors.Err() != nil {
		t.Fatal(err, batch.Errors.Err())
	}
	denseBatch, err := dense.EmbedUsers(ctx, users)
	if err != nil || denseBatch.Errors.Err() != nil {
		t.Fatal(err, denseBatch.Errors.Err())
	}
	var group sync.WaitGroup
	for i, user := range users {
		group.Add(1)
		go func() {
			defer group.Done()
			want := batch.Embeddings[i]
			if want.Release != "dot" || want.Source != twotower.SourceComputed {
				t.Errorf("%+v", want)
			}
			near(t, "dense batch", denseBatch.Embeddings[i].Values, want.Values)
			for name, client := range map[string]*twotower.Client{"coalesced": coalescing, "dense": dense, "plain": plain} {
				got, err := client.EmbedUser(ctx, user)
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				near(t, name, got.Values, want.Values)
				if got.Release != "dot" {
					t.Errorf("%s: release %q", name, got.Release)
				}
				if name == "plain" && got.FeatureUse.GetUsed() != 5 {
					t.Errorf("feature use: %v", got.FeatureUse)
				}
			}
		}()
	}
	group.Wait()
	guide, err := plain.GetUserEmbedding(ctx, users[0].Features)
	if err != nil || len(guide.Values) != len(batch.Embeddings[0].Values) {
		t.Error(guide, err)
	}
}

func TestABadEntryAmongOthersFailsAsItsOwnCallDoes(t *testing.T) {
	plain, coalescing, ctx := dial(t, twotower.WithoutCoalescing()), dial(t), t.Context()
	bad := []*twotower.User{
		{Features: map[string]float64{"age": math.NaN()}},
		{Features: map[string]float64{"item_price": 3}},
		{ID: "nothing"},
		{Features: map[string]float64{"age": 1}, StringFeatures: map[string][]string{"age": {"1"}}},
	}
	describe := func(err error) string {
		var refused *twotower.Error
		if !errors.As(err, &refused) {
			return fmt.Sprint("no error: ", err)
		}
		return fmt.Sprint(refused.Code, refused.Reason, refused.Field, refused.Message)
	}
	var group sync.WaitGroup
	for number := range 200 {
		group.Add(1)
		go func() {
			defer group.Done()
			if number%10 != 0 {
				if _, err := coalescing.EmbedUser(ctx, someone(number)); err != nil {
					t.Error(err)
				}
				if _, err := coalescing.Score(ctx, &twotower.ScoreRequest{User: someone(number), ItemIDs: []string{"i1"}}); err != nil {
					t.Error(err)
				}
				return
			}
			user := bad[number/10%len(bad)]
			_, want := plain.EmbedUser(ctx, user)
			if _, got := coalescing.EmbedUser(ctx, user); describe(got) != describe(want) || want == nil {
				t.Errorf("together %s\nalone %s", describe(got), describe(want))
			}
			request := &twotower.ScoreRequest{User: user, ItemIDs: []string{"i1"}}
			_, want = plain.Score(ctx, request)
			if _, got := coalescing.Score(ctx, request); describe(got) != describe(want) || want == nil {
				t.Errorf("together %s\nalone %s", describe(got), describe(want))
			}
		}()
	}
	group.Wait()
	batch, err := plain.EmbedUsers(ctx, append([]*twotower.User{someone(1)}, bad...))
	if err != nil || len(batch.Errors) != len(bad) || batch.Embeddings[0].Values == nil || batch.Embeddings[1].Values != nil {
		t.Fatal(batch, err)
	}
	if !errors.Is(batch.Errors[1], twotower.ErrValueNotFinite) || !errors.Is(batch.Errors[2], twotower.ErrNoKnownFeature) ||
		!errors.Is(batch.Errors[3], twotower.ErrFieldRequired) || !errors.Is(batch.Errors[4], twotower.ErrFieldConflict) {
		t.Error(batch.Errors.Err())
	}
}

func TestItemsAreReadAndComputed(t *testing.T) {
	client, ctx := dial(t), t.Context()
	stored, err := client.ItemEmbedding(ctx, "i1")
	if err != nil || stored.Source != twotower.SourceStored || stored.Release != "dot" {
		t.Fatal(stored, err)
	}
	many, err := client.ItemEmbeddings(ctx, []string{"i1", "gone", "i2"})
	if err != nil || !slices.Equal(many.Missing, []int{1}) || many.Vectors[1] != nil || many.Vectors[2] == nil {
		t.Fatal(many, err)
	}
	near(t, "the batch", many.Vectors[0], stored.Values)
	if at := many.At(0); at.Release != "dot" || &at.Values[0] != &many.Vectors[0][0] {
		t.Error(at)
	}
	if _, err := client.ItemEmbedding(ctx, "gone"); !errors.Is(err, twotower.ErrItemNotFound) {
		t.Error(err)
	}
	features := map[string]float64{"price": 12.5, "item_ctr": 0.03}
	computed, err := client.GetItemEmbedding(ctx, features)
	if err != nil || computed.Source != twotower.SourceComputed {
		t.Fatal(computed, err)
	}
	item := &twotower.Item{Features: features}
	nan := &twotower.Item{Features: map[string]float64{"price": math.NaN()}}
	for name, client := range map[string]*twotower.Client{"by name": client, "dense": dial(t, twotower.WithDenseFeatures())} {
		batch, err := client.EmbedItems(ctx, []*twotower.Item{item, {ID: "nothing"}})
		if err != nil || len(batch.Errors) != 1 || batch.Vectors[1] != nil {
			t.Fatal(name, batch, err)
		}
		near(t, name, batch.Vectors[0], computed.Values)
	}
	if _, err := client.EmbedItem(ctx, nan); !errors.Is(err, twotower.ErrValueNotFinite) {
		t.Error(err)
	}
}

func TestScoresOfStoredAndComputedCandidates(t *testing.T) {
	client, ctx := dial(t), t.Context()
	ids := []string{"i1", "gone", "i2", "i3"}
	scores, err := client.Score(ctx, &twotower.ScoreRequest{User: someone(1), ItemIDs: ids})
	if err != nil || scores.Release != "dot" || !slices.Equal(scores.Missing, []int{1}) || scores.Scores[1] != 0 {
		t.Fatal(scores, err)
	}
	if scores.FeatureUse.GetUsed() != 5 || !slices.Equal(scores.ItemIDs, ids) {
		t.Error(scores.FeatureUse, scores.ItemIDs)
	}
	order := scores.Order()
	if len(order) != 4 || order[3] != 1 || scores.Similarities[order[0]] < scores.Similarities[order[1]] {
		t.Error(order, scores.Similarities)
	}
	byKey, err := client.Score(ctx, &twotower.ScoreRequest{User: someone(1), ItemKeys: twotower.ItemKeys(ids)})
	if err != nil || byKey.ItemIDs != nil {
		t.Fatal(byKey, err)
	}
	near(t, "by key", byKey.Scores, scores.Scores)
	_, err = client.Score(ctx, &twotower.ScoreRequest{User: someone(1), ItemIDs: ids, RequireAll: true})
	if !errors.Is(err, twotower.ErrItemNotFound) || status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	vector, err := client.EmbedUser(ctx, someone(1))
	if err != nil {
		t.Fatal(err)
	}
	byVector, err := client.Score(ctx, &twotower.ScoreRequest{Embedding: &vector.Embedding, ItemIDs: ids})
	if err != nil || byVector.Source != twotower.SourceUnspecified {
		t.Fatal(byVector, err)
	}
	near(t, "by vector", byVector.Scores, scores.Scores)
	items := []*twotower.Item{{ID: "new", Features: map[string]float64{"price": 5}}, {ID: "bad"}}
	batch, err := client.BatchScore(ctx, []*twotower.ScoreRequest{
		{User: someone(1), ItemIDs: ids}, {User: someone(2), Items: items}, {ItemIDs: ids},
		{User: someone(1), ItemIDs: ids, Release: "gone"},
	})
	if err != nil {
		t.Fatal(err)
	}
	near(t, "batch", batch.Scores[0].Scores, scores.Scores)
	if one := batch.Scores[1]; !errors.Is(one.Errors[1], twotower.ErrFieldRequired) || one.Scores[0] == 0 || one.ItemIDs[0] != "new" {
		t.Error(one)
	}
	if !errors.Is(batch.Errors[2], twotower.ErrFieldRequired) || batch.Scores[2] != nil ||
		!errors.Is(batch.Errors[3], twotower.ErrReleaseNotLoaded) {
		t.Error(batch.Errors.Err())
	}
}

func TestSearchesFilterExcludeAndReturn(t *testing.T) {
	client, ctx := dial(t), t.Context()
	cheap := twotower.AllOf(
		twotower.Where("price").Between(1, 50),
		twotower.AnyOf(twotower.Where("category").In("books", "film"), twotower.Where("tags").In("t1")),
		twotower.Where("in_stock").Is(false).Not(),
	)
	all, err := client.Recommend(ctx, &twotower.RecommendRequest{User: someone(1), Selection: twotower.Selection{K: 20, Filter: cheap}})
	if err != nil || len(all.Items) != 20 || all.Release != "dot" {
		t.Fatal(all, err)
	}
	found, err := client.Recommend(ctx, &twotower.RecommendRequest{User: someone(1), Selection: twotower.Selection{
		K: 5, Filter: cheap, ExcludeItemIDs: all.ItemIDs()[:2], ExcludeItemKeys: twotower.ItemKeys(all.ItemIDs()[2:3]),
		ReturnAttributes: []string{"title", "price", "in_stock", "tags"}, IncludeEmbeddings: true,
	}})
	if err != nil || !slices.Equal(found.ItemIDs(), all.ItemIDs()[3:8]) {
		t.Fatal(found, err)
	}
	for _, item := range found.Items {
		price, _ := item.Attributes["price"].(float64)
		title, _ := item.Attributes["title"].(string)
		stock, _ := item.Attributes["in_stock"].(bool)
		if price < 1 || price > 50 || title == "" || !stock || item.Score <= 0 || item.Embedding.Release != "dot" {
			t.Errorf("%+v", item)
		}
	}
	if found.UserEmbedding == nil || found.FeatureUse.GetUsed() != 5 {
		t.Errorf("%+v", found)
	}
	neighbours, err := client.SearchItems(ctx, &twotower.SearchRequest{ItemID: "i1", Selection: twotower.Selection{K: 3}})
	if err != nil || len(neighbours.Items) != 3 || slices.Contains(neighbours.ItemIDs(), "i1") {
		t.Fatal(neighbours, err)
	}
	stored, err := client.ItemEmbedding(ctx, "i1")
	if err != nil {
		t.Fatal(err)
	}
	itself, err := client.SearchItems(ctx, &twotower.SearchRequest{Embedding: &stored.Embedding, Selection: twotower.Selection{K: 300}})
	if err != nil || !slices.Contains(itself.ItemIDs(), "i1") {
		t.Error(err)
	}
	item := &twotower.Item{Features: map[string]float64{"price": 9}}
	if byFeatures, err := client.SearchItems(ctx, &twotower.SearchRequest{Item: item}); err != nil || len(byFeatures.Items) != 100 {
		t.Error(err)
	}
	unknown := twotower.AllOf(twotower.Where("colour").In("red"))
	_, err = client.Recommend(ctx, &twotower.RecommendRequest{User: someone(1), Selection: twotower.Selection{Filter: unknown}})
	var refused *twotower.Error
	if !errors.Is(err, twotower.ErrFilterInvalid) || !errors.As(err, &refused) || refused.Field == "" {
		t.Error(err)
	}
	for k, want := range map[int]error{-1: twotower.ErrLimitExceeded, 10_001: twotower.ErrLimitExceeded} {
		_, err := client.Recommend(ctx, &twotower.RecommendRequest{User: someone(1), Selection: twotower.Selection{K: k}})
		if !errors.Is(err, want) {
			t.Errorf("k = %d: %v", k, err)
		}
	}
}

func TestEveryConditionMatchesWhatItSays(t *testing.T) {
	client, ctx := dial(t), t.Context()
	for name, test := range map[string]struct {
		part  twotower.FilterPart
		holds func(map[string]any) bool
	}{
		"less":    {twotower.Where("price").LessThan(20), func(a map[string]any) bool { return a["price"].(float64) < 20 }},
		"at most": {twotower.Where("price").AtMost(20), func(a map[string]any) bool { return a["price"].(float64) <= 20 }},
		"more":    {twotower.Where("price").MoreThan(20), func(a map[string]any) bool { return a["price"].(float64) > 20 }},
		"least":   {twotower.Where("price").AtLeast(20), func(a map[string]any) bool { return a["price"].(float64) >= 20 }},
		"texts":   {twotower.Where("category").In("books"), func(a map[string]any) bool { return a["category"] == "books" }},
		"not":     {twotower.Where("category").In("books").Not(), func(a map[string]any) bool { return a["category"] != "books" }},
		"list":    {twotower.Where("tags").In("t2"), func(a map[string]any) bool { return slices.Contains(a["tags"].([]string), "t2") }},
		"flag":    {twotower.Where("in_stock").Is(false), func(a map[string]any) bool { return a["in_stock"] == false }},
	} {
		found, err := client.Recommend(ctx, &twotower.RecommendRequest{User: someone(1), Selection: twotower.Selection{
			K: 300, Filter: twotower.AllOf(test.part), ReturnAttributes: []string{"price", "category", "tags", "in_stock"},
		}})
		if err != nil || len(found.Items) == 0 || len(found.Items) == 300 {
			t.Fatal(name, len(found.Items), err)
		}
		for _, item := range found.Items {
			if !test.holds(item.Attributes) {
				t.Errorf("%s: %v", name, item.Attributes)
			}
		}
	}
	first, err := client.Recommend(ctx, &twotower.RecommendRequest{
		User: someone(1), Selection: twotower.Selection{K: 300, ReturnAttributes: []string{"price"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range first.Items {
		if price, ok := item.Attributes["price"].(float64); ok {
			only := twotower.AllOf(twotower.Where("price").InNumbers(price))
			found, err := client.Recommend(ctx, &twotower.RecommendRequest{User: someone(1), Selection: twotower.Selection{K: 300, Filter: only}})
			if err != nil || !slices.Contains(found.ItemIDs(), item.ItemID) {
				t.Error(found, err)
			}
			break
		}
	}
}

func TestChangesOfTheCatalogAreSeenByTheNextCall(t *testing.T) {
	client, ctx := dial(t), t.Context()
	stored, err := client.ItemEmbedding(ctx, "i1")
	if err != nil {
		t.Fatal(err)
	}
	written, err := client.UpsertItems(ctx, []*twotower.ItemChange{
		{
			Item:       &twotower.Item{ID: "go-1", Features: map[string]float64{"price": 7}, StringFeatures: map[string][]string{"category": {"film"}}},
			Attributes: map[string]any{"title": "Go", "price": 7, "in_stock": true, "tags": []string{"t1", "t2"}},
			Sequence:   5,
		},
		{Item: &twotower.Item{ID: "go-2"}, Embedding: &stored.Embedding},
		{Item: &twotower.Item{ID: ""}},
	})
	if err != nil || written.LogPosition == 0 || len(written.Errors) != 1 || !errors.Is(written.Errors[2], twotower.ErrFieldRequired) {
		t.Fatal(written, err)
	}
	if _, err := client.UpsertItems(ctx, []*twotower.ItemChange{
		{Item: &twotower.Item{ID: "go-1"}, Attributes: map[string]any{"title": 1i}},
	}); !errors.Is(err, twotower.ErrFeatureType) {
		t.Error(err)
	}
	copied, err := client.ItemEmbedding(ctx, "go-2")
	if err != nil {
		t.Fatal(err)
	}
	near(t, "the ready vector", copied.Values, stored.Values)
	only := twotower.AllOf(twotower.Where("title").In("Go"))
	found, err := client.Recommend(ctx, &twotower.RecommendRequest{User: someone(1), Selection: twotower.Selection{
		Filter: only, ReturnAttributes: []string{"title", "price", "in_stock", "tags"},
	}})
	if err != nil || !slices.Equal(found.ItemIDs(), []string{"go-1"}) {
		t.Fatal(found, err)
	}
	attributes := found.Items[0].Attributes
	tags, _ := attributes["tags"].([]string)
	if attributes["title"] != "Go" || attributes["price"] != 7.0 || attributes["in_stock"] != true || !slices.Equal(tags, []string{"t1", "t2"}) {
		t.Error(attributes)
	}
	deleted, err := client.DeleteItems(ctx, []string{"go-1", "never", "go-2"})
	if err != nil || !slices.Equal(deleted.Missing, []int{1}) || deleted.LogPosition <= written.LogPosition {
		t.Fatal(deleted, err)
	}
	if _, err := client.ItemEmbedding(ctx, "go-1"); !errors.Is(err, twotower.ErrItemNotFound) {
		t.Error(err)
	}
}

func TestReleasesAreLoadedSplitAndSwitchedUnderCoalescedCalls(t *testing.T) {
	client, ctx := dial(t), t.Context()
	releases := client.Releases()
	if _, err := releases.LoadAndWait(ctx, "gone"); !errors.Is(err, twotower.ErrReleaseNotFound) {
		t.Error(err)
	}
	if _, err := client.PinTo("gone").EmbedUser(ctx, someone(1)); !errors.Is(err, twotower.ErrReleaseNotLoaded) {
		t.Error(err)
	}
	loaded, err := releases.LoadAndWait(ctx, "cosine")
	if err != nil || loaded.GetState() != twotowerv1.ReleaseState_RELEASE_STATE_LOADED {
		t.Fatal(loaded, err)
	}
	pinned, err := client.Pin(ctx)
	if err != nil || pinned.Release() != "dot" {
		t.Fatal(pinned, err)
	}
	want := map[string][]float32{}
	for _, name := range []string{"dot", "cosine"} {
		vector, err := client.PinTo(name).EmbedUser(ctx, someone(1))
		if err != nil || vector.Release != name {
			t.Fatal(vector, err)
		}
		want[name] = vector.Values
	}

	stop, group := make(chan struct{}), sync.WaitGroup{}
	for number := range 32 {
		group.Add(1)
		go func() {
			defer group.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				caller := client
				if number%4 == 0 {
					caller = pinned
				}
				user := someone(1)
				user.RoutingKey = fmt.Sprint("k", number)
				vector, err := caller.EmbedUser(ctx, user)
				if err != nil {
					t.Error(err)
					return
				}
				near(t, vector.Release, vector.Values, want[vector.Release])
				scores, err := caller.Score(ctx, &twotower.ScoreRequest{Embedding: &vector.Embedding, ItemIDs: []string{"i1"}})
				if err != nil || scores.Release != vector.Release {
					t.Error(scores, err)
					return
				}
				if caller == pinned && vector.Release != "dot" {
					t.Errorf("the pin was served by %s", vector.Release)
				}
			}
		}()
	}
	shares, err := releases.SetTrafficSplit(ctx, map[string]float64{"dot": 0.5, "cosine": 0.5})
	if err != nil || shares["cosine"] != 0.5 {
		t.Error(shares, err)
	}
	if err := servedByAll(ctx, client, "dot", "cosine"); err != nil {
		t.Error(err)
	}
	if _, err := releases.Activate(ctx, "cosine", "cosine"); !errors.Is(err, twotower.ErrReleaseMismatch) {
		t.Error(err)
	}
	previous, err := releases.Activate(ctx, "cosine", "dot")
	if err != nil || previous != "dot" {
		t.Error(previous, err)
	}
	if after, err := client.EmbedUser(ctx, someone(1)); err != nil || after.Release != "cosine" {
		t.Error("a call after the switch:", after, err)
	}
	active, err := releases.Rollback(ctx, "cosine")
	if err != nil || active != "dot" {
		t.Error(active, err)
	}
	if _, err := releases.Rollback(ctx, "cosine"); !errors.Is(err, twotower.ErrReleaseMismatch) {
		t.Error(err)
	}
	close(stop)
	group.Wait()

	mixed := &twotower.ScoreRequest{Embedding: &twotower.Embedding{Values: want["dot"], Release: "dot"}, ItemIDs: []string{"i1"}}
	if _, err := client.PinTo("cosine").Score(ctx, mixed); !errors.Is(err, twotower.ErrReleaseMismatch) {
		t.Error(err)
	}
	all, err := releases.List(ctx)
	if err != nil || len(all) != 2 {
		t.Fatal(all, err)
	}
	for _, one := range all {
		if one.GetServed() == 0 {
			t.Error(one)
		}
	}
	info, err := pinned.ServingInfo(ctx)
	if err != nil || len(info.GetReleases()) != 1 || info.GetReleases()[0].GetRelease() != "dot" {
		t.Error(info, err)
	}
}

// servedByAll is an error unless the split sends some of many users to each of these releases.
func servedByAll(ctx context.Context, client *twotower.Client, releases ...string) error {
	users := make([]*twotower.User, 100)
	for i := range users {
		users[i] = someone(i)
	}
	batch, err := client.EmbedUsers(ctx, users)
	if err != nil {
		return err
	}
	for _, release := range releases {
		if !slices.ContainsFunc(batch.Embeddings, func(one twotower.UserEmbedding) bool { return one.Release == release }) {
			return fmt.Errorf("nobody was served by %s", release)
		}
	}
	return nil
}
