package twotower

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
)

// Lengths at which the length of a length changes, and what lies between.
var lengths = []int{0, 1, 2, 5, 60, 126, 127, 128, 129, 200, 16_383, 16_384}

func text(length int) string {
	letters := []rune("abcÄß用户👩")
	var made strings.Builder
	for made.Len() < length {
		made.WriteRune(letters[rand.IntN(len(letters))])
	}
	return made.String()
}

func randomUser() *User {
	user := &User{ID: text(rand.IntN(40)), Features: map[string]float64{}, StringFeatures: map[string][]string{}}
	for range rand.IntN(5) {
		user.Features[text(rand.IntN(30))] = rand.NormFloat64()
		user.StringFeatures[text(lengths[rand.IntN(len(lengths))])] = []string{text(rand.IntN(200)), "", text(3)}
	}
	user.Features["inf"], user.Features["zero"] = math.Inf(-1), 0
	user.StringFeatures["none"] = nil
	if rand.IntN(2) == 0 {
		user.FeatureVersion, user.RoutingKey = text(rand.IntN(20)), text(rand.IntN(20))
		user.DenseFeatures, user.SchemaFingerprint = []float32{1.5, float32(math.Inf(1)), -0.25}, rand.Uint64()
	}
	return user
}

func (u *User) message() *twotowerv1.User {
	message := &twotowerv1.User{
		UserId: u.ID, Features: u.Features, StringFeatures: stringLists(u.StringFeatures), FeatureVersion: u.FeatureVersion,
		RoutingKey: u.RoutingKey, DenseFeatures: u.DenseFeatures, SchemaFingerprint: u.SchemaFingerprint,
	}
	return message
}

func (i *Item) message() *twotowerv1.Item {
	return &twotowerv1.Item{
		ItemId: i.ID, Features: i.Features, StringFeatures: stringLists(i.StringFeatures), DenseFeatures: i.DenseFeatures,
		SchemaFingerprint: i.SchemaFingerprint,
	}
}

func stringLists(texts map[string][]string) map[string]*twotowerv1.StringList {
	lists := make(map[string]*twotowerv1.StringList, len(texts))
	for name, values := range texts {
		lists[name] = &twotowerv1.StringList{Values: values}
	}
	return lists
}

// reads fails where the bytes are not the message.
func reads(t *testing.T, written []byte, want proto.Message) {
	t.Helper()
	got := want.ProtoReflect().New().Interface()
	if err := proto.Unmarshal(written, got); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestUsersAndItemsAreWrittenAsTheGeneratedMessagesAre(t *testing.T) {
	for range 300 {
		user := randomUser()
		written, err := appendUser(nil, user, nil)
		if err != nil {
			t.Fatal(err)
		}
		reads(t, written, user.message())
		item := &Item{user.ID, user.Features, user.StringFeatures, user.DenseFeatures, user.SchemaFingerprint}
		if written, err = appendItem(nil, item, nil); err != nil {
			t.Fatal(err)
		}
		reads(t, written, item.message())
	}
}

func TestScoreRequestsAreWrittenAsTheGeneratedMessagesAre(t *testing.T) {
	client := &Client{core: &core{}}
	embedding := &Embedding{[]float32{1, -2}, "r1"}
	item := &Item{ID: "i1", Features: map[string]float64{"price": 2}}
	keys := ItemKeys([]string{"a", "b"})
	for name, test := range map[string]struct {
		request *ScoreRequest
		want    *twotowerv1.ScoreRequest
	}{
		"empty": {&ScoreRequest{}, &twotowerv1.ScoreRequest{}},
		"ids travel as keys": {
			&ScoreRequest{User: someone, ItemIDs: []string{"a", "b"}},
			&twotowerv1.ScoreRequest{User: someone.message(), ItemKeys: keys},
		},
		"ids that must be named": {
			&ScoreRequest{User: someone, ItemIDs: []string{"a", "b"}, RequireAll: true},
			&twotowerv1.ScoreRequest{User: someone.message(), ItemIds: []string{"a", "b"}, RequireAll: true},
		},
		"ids beside keys stay for the server to refuse": {
			&ScoreRequest{ItemIDs: []string{"a"}, ItemKeys: keys},
			&twotowerv1.ScoreRequest{ItemIds: []string{"a"}, ItemKeys: keys},
		},
		"everything else": {
			&ScoreRequest{Embedding: embedding, Items: []*Item{item, {}}, Release: "r1", CacheMode: CacheRefresh},
			&twotowerv1.ScoreRequest{
				Embedding: embedding.message(), Items: []*twotowerv1.Item{item.message(), {}}, Release: "r1",
				CacheMode: CacheRefresh,
			},
		},
	} {
		written, err := client.appendScoreRequest(nil, test.request, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Log(name)
		reads(t, written, test.want)
	}
}

func TestAnItemsKeyIsTheServers(t *testing.T) {
	written, err := os.ReadFile("../../../tests/golden/routing.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Positions []struct{ Key, Hash string }
	}
	if err := json.Unmarshal(written, &golden); err != nil {
		t.Fatal(err)
	}
	if len(golden.Positions) < 300 {
		t.Fatalf("the file has %d keys", len(golden.Positions))
	}
	for _, one := range golden.Positions {
		if got := strconv.FormatUint(ItemKey(one.Key), 10); got != one.Hash {
			t.Errorf("the key of %q is %s, want %s", one.Key, got, one.Hash)
		}
	}
	if got := ItemKeys([]string{"u1", "u2"}); !slices.Equal(got, []uint64{ItemKey("u1"), ItemKey("u2")}) {
		t.Error(got)
	}
}

func busyUser() *User {
	user := &User{ID: "u1", Features: map[string]float64{}}
	for i := range 32 {
		user.Features[fmt.Sprintf("user_f%02d", i)] = rand.NormFloat64()
	}
	return user
}

// BenchmarkUser compares what this package writes with the generated message.
func BenchmarkUser(b *testing.B) {
	user := busyUser()
	b.Run("by hand", func(b *testing.B) {
		for b.Loop() {
			_, _ = appendUser(nil, user, nil)
		}
	})
	b.Run("generated", func(b *testing.B) {
		for b.Loop() {
			_, _ = proto.Marshal(user.message())
		}
	})
}
