package reckit_test

import (
	"slices"
	"testing"
	"time"

	"github.com/rushteam/reckit/core"
	"github.com/rushteam/reckit/recall"

	"github.com/twotower/twotower/clients/go/reckit"
	"github.com/twotower/twotower/clients/go/twotower"
)

func TestRecallMakesOneCallWithTheSequencesOfTheUser(t *testing.T) {
	client, made := dial(t)
	never := append(make([]string, 0, 9), "i0") // with room behind it
	source := &reckit.Recall{
		Client: client,
		Selection: twotower.Selection{
			K: 20, ReturnAttributes: []string{"title", "price"}, IncludeEmbeddings: true, ExcludeItemIDs: never,
		},
		Select: func(rctx *core.RecommendContext, selection twotower.Selection) twotower.Selection {
			selection.ExcludeItemIDs = append(selection.ExcludeItemIDs, rctx.Attributes["recent_clicks"].([]string)...)
			return selection
		},
	}
	fanout := &recall.Fanout{Sources: []recall.Source{source}, Dedup: true, Timeout: time.Minute}
	items, err := fanout.Process(t.Context(), someone(), nil)
	if err != nil {
		t.Fatal(err)
	}
	made.want(t, "Recommend")
	want := recommended(t, client, &twotower.RecommendRequest{User: someoneSent, Selection: twotower.Selection{
		K: 20, ReturnAttributes: []string{"title", "price"}, IncludeEmbeddings: true, ExcludeItemIDs: []string{"i0", "i7", "i9"},
	}})
	sameItems(t, "recall", items, want)
	for i, item := range items {
		one := want.Items[i]
		vector, ok := item.Meta["embedding"].([]float64) // what the re-rankers take
		if !ok || len(vector) != len(one.Embedding.Values) || float32(vector[0]) != one.Embedding.Values[0] {
			t.Fatalf("%+v", item.Meta)
		}
		if item.Score != float64(one.Score) || item.Meta["similarity"] != float64(one.Similarity) ||
			item.Meta["title"] != one.Attributes["title"] || item.Labels["recall_release"].Value != "dot" ||
			item.Labels["recall_source"].Value != "recall.two_tower" {
			t.Errorf("%+v, want %+v", item, one)
		}
	}
	rctx := someone()
	rctx.Attributes["recent_clicks"] = []string{"i200", "i201"}
	others, err := source.Recall(t.Context(), rctx)
	if err != nil || slices.Equal(idsOf(others), idsOf(items)) {
		t.Error("other clicks change nothing", err)
	}
	for _, id := range idsOf(others) {
		if slices.Contains([]string{"i0", "i200", "i201"}, id) {
			t.Errorf("%s was excluded", id)
		}
	}
	if all := never[:cap(never)]; all[1] != "" {
		t.Error("one request wrote into the selection of all: ", all)
	}

	source.User = func(*core.RecommendContext) *twotower.User { return &twotower.User{Features: known.user} }
	source.Selection, source.Select, source.NodeName = twotower.Selection{K: 3}, nil, "mine"
	items, err = source.Recall(t.Context(), nil)
	if err != nil || source.Name() != "mine" {
		t.Fatal(err)
	}
	sameItems(t, "a user of its own", items, recommended(t, client, &twotower.RecommendRequest{
		User: &twotower.User{Features: known.user}, Selection: twotower.Selection{K: 3},
	}))
	_, err = source.Recall(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	source.User = nil
	_, err = source.Recall(t.Context(), &core.RecommendContext{UserID: "nothing is known"})
	wantCode(t, "a user without features", err, core.ErrorCodeInvalidInput)
}
