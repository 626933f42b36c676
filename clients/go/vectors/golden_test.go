package vectors

import (
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/twotower/twotower/clients/go/twotower"
)

// readGolden reads a file that the tests of the server read, too (tests/go/test_golden.py).
func readGolden(t *testing.T, name string, document any) {
	t.Helper()
	text, err := os.ReadFile("../../../tests/golden/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, document); err != nil {
		t.Fatal(err)
	}
}

func TestVectorsAndKeysOfRedisAreTheServers(t *testing.T) {
	var golden struct {
		Vectors []struct {
			Values []float32
			Bytes  string
		}
		ItemKeys []struct {
			Release, Key string
			ItemID       string `json:"item_id"`
		} `json:"item_keys"`
		UserKeys []struct {
			Release, Key   string
			FeatureVersion string `json:"feature_version"`
			UserID         string `json:"user_id"`
		} `json:"user_keys"`
	}
	readGolden(t, "vectors.json", &golden)
	if len(golden.Vectors) < 8 || len(golden.ItemKeys) < 10 || len(golden.UserKeys) < 2 {
		t.Fatalf("the file has %d vectors", len(golden.Vectors))
	}
	for _, entry := range golden.Vectors {
		value, err := hex.DecodeString(entry.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		vector, err := decode("key", string(value), len(entry.Values))
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range entry.Values {
			if math.Float32bits(vector[i]) != math.Float32bits(want) {
				t.Errorf("value %d of %s is %v, want %v", i, entry.Bytes, vector[i], want)
			}
		}
	}
	reader := NewReader(nil)
	for _, entry := range golden.ItemKeys {
		if key := reader.itemKey(entry.Release, entry.ItemID); key != entry.Key {
			t.Errorf("%q, want %q", key, entry.Key)
		}
	}
	for _, entry := range golden.UserKeys {
		if key := reader.userKey(entry.Release, entry.FeatureVersion, entry.UserID); key != entry.Key {
			t.Errorf("%q, want %q", key, entry.Key)
		}
	}
}

func TestScoresAndOrderAreTheServers(t *testing.T) {
	var golden struct {
		Scores []struct {
			Scale, Bias       float64
			Similarity, Score float32
		}
		Orders []struct {
			Cosine      bool
			Scale, Bias float64
			User        []float32
			Items       []struct {
				ItemID string `json:"item_id"`
				Values []float32
			}
			Similarities, Scores []float32
			Order                []string
		}
	}
	readGolden(t, "scores.json", &golden)
	if len(golden.Scores) < 100 || len(golden.Orders) < 2 {
		t.Fatalf("the file has %d scores", len(golden.Scores))
	}
	for _, entry := range golden.Scores {
		got := Calibration{Scale: entry.Scale, Bias: entry.Bias}.Score(entry.Similarity)
		spacing := math.Nextafter32(entry.Score, 2) - entry.Score
		if got <= 0 || math.Abs(float64(got)-float64(entry.Score)) > float64(spacing) {
			t.Errorf("the score of %v is %v, want %v", entry.Similarity, got, entry.Score)
		}
	}
	for _, entry := range golden.Orders {
		calibration, scores := Calibration{entry.Scale, entry.Bias, entry.Cosine}, &twotower.Scores{}
		for i, item := range entry.Items {
			similarity := calibration.Similarity(entry.User, item.Values)
			score := calibration.Score(similarity)
			if math.Abs(float64(similarity-entry.Similarities[i])) > 1e-6*(1+math.Abs(float64(entry.Similarities[i]))) {
				t.Errorf("%s: similarity %v, want %v", item.ItemID, similarity, entry.Similarities[i])
			}
			if math.Abs(float64(score-entry.Scores[i])) > 1e-6 {
				t.Errorf("%s: score %v, want %v", item.ItemID, score, entry.Scores[i])
			}
			scores.ItemIDs = append(scores.ItemIDs, item.ItemID)
			scores.Similarities = append(scores.Similarities, similarity)
			scores.Scores = append(scores.Scores, score)
		}
		order := []string{}
		for _, item := range Top(scores, len(entry.Items)) {
			order = append(order, item.ItemID)
		}
		if !slices.Equal(order, entry.Order) {
			t.Errorf("%v, want %v", order, entry.Order)
		}
	}
}
