package reckit_test

import (
	"slices"
	"testing"

	"github.com/rushteam/reckit/core"

	"github.com/twotower/twotower/clients/go/reckit"
	"github.com/twotower/twotower/clients/go/twotower"
)

func TestACollectionIsALoadedRelease(t *testing.T) {
	client, _ := dial(t)
	service, ctx := reckit.New(client), t.Context()
	vector, err := client.PinTo("cosine").EmbedUser(ctx, &twotower.User{Features: known.user})
	if err != nil {
		t.Fatal(err)
	}
	request := &core.VectorSearchRequest{Vector: make([]float64, len(vector.Values)), TopK: 5}
	for i, value := range vector.Values {
		request.Vector[i] = float64(value)
	}
	want := recommended(t, client, &twotower.RecommendRequest{Embedding: &vector.Embedding, Selection: twotower.Selection{K: 5}})
	for _, metric := range []string{"cosine", "inner_product", ""} {
		request.Collection, request.Metric = "cosine", metric
		found, err := service.Search(ctx, request)
		if err != nil || len(found.Items) != 5 {
			t.Fatal(found, err)
		}
		for i, item := range found.Items {
			similarity := float64(want.Items[i].Similarity)
			if item.ID != want.Items[i].ItemID || item.Score != similarity || item.Distance != 1-similarity {
				t.Errorf("%+v, want %+v", item, want.Items[i])
			}
		}
	}
	for _, name := range []string{"nowhere", "Not A Name", "items2"} {
		request.Collection = name
		if _, err := service.Search(ctx, request); !core.IsNotFound(err) {
			t.Error(name, err)
		}
	}

	made, err := service.Predict(ctx, &core.MLPredictRequest{Features: []map[string]float64{known.user}})
	if err != nil || made.ModelVersion != "dot" {
		t.Fatal(made, err)
	}
	for collection, code := range map[string]string{
		"items": "", "item_embeddings": "", "": "", "dot": "",
		"cosine": core.ErrorCodeInvalidInput, "nowhere": core.ErrorCodeNotFound,
	} {
		_, err := service.Search(ctx, &core.VectorSearchRequest{Collection: collection, Vector: made.Predictions})
		if code != "" {
			wantCode(t, "a vector of dot in "+collection, err, code)
		} else if err != nil {
			t.Errorf("a vector of dot in %q: %v", collection, err)
		}
	}
	for collection, want := range map[string]bool{"items": true, "item_embeddings": true, "dot": true, "cosine": true, "nowhere": false} {
		if has, err := service.HasCollection(ctx, collection); has != want || err != nil {
			t.Error(collection, has, err)
		}
	}
	_, err = service.Search(ctx, &core.VectorSearchRequest{Vector: []float64{1, 2, 3}})
	wantCode(t, "another dimension", err, core.ErrorCodeInvalidInput)
}

func TestSearchFiltersByAttributes(t *testing.T) {
	client, _ := dial(t)
	service, ctx := reckit.New(client), t.Context()
	made, err := service.Predict(ctx, &core.MLPredictRequest{Features: []map[string]float64{known.user}})
	if err != nil {
		t.Fatal(err)
	}
	all := recommended(t, client, &twotower.RecommendRequest{
		User:      &twotower.User{Features: known.user},
		Selection: twotower.Selection{K: 300, ReturnAttributes: []string{"category", "in_stock", "price", "title"}},
	})
	for _, conditions := range []map[string]any{
		{"category": "film", "in_stock": true},
		{"category": []string{"film", "books"}},
		{"price": all.Items[3].Attributes["price"]},
		{"price": []float64{all.Items[3].Attributes["price"].(float64), 1}, "in_stock": all.Items[3].Attributes["in_stock"]},
	} {
		found, err := service.Search(ctx, &core.VectorSearchRequest{Vector: made.Predictions, TopK: 300, Filter: conditions})
		if err != nil {
			t.Fatal(conditions, err)
		}
		var want, got []string
		for _, item := range all.Items {
			if holds(item.Attributes, conditions) {
				want = append(want, item.ItemID)
			}
		}
		for _, item := range found.Items {
			got = append(got, item.ID)
		}
		if !slices.Equal(got, want) || len(want) == 0 {
			t.Errorf("%v: %v, want %v", conditions, got, want)
		}
	}
	_, err = service.Search(ctx, &core.VectorSearchRequest{Vector: made.Predictions, Filter: map[string]any{"colour": "red"}})
	wantCode(t, "an attribute that no item has", err, core.ErrorCodeInvalidInput)
}

func holds(attributes, conditions map[string]any) bool {
	for name, condition := range conditions {
		switch condition := condition.(type) {
		case []string:
			text, _ := attributes[name].(string)
			if !slices.Contains(condition, text) {
				return false
			}
		case []float64:
			number, _ := attributes[name].(float64)
			if !slices.Contains(condition, number) {
				return false
			}
		default:
			if attributes[name] != condition {
				return false
			}
		}
	}
	return true
}
