package twotower

import (
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"testing"

	"github.com/zeebo/xxh3"
	"google.golang.org/grpc/codes"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
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

func TestHashesAreTheServers(t *testing.T) {
	var golden struct {
		Values []struct {
			Value, Hash string
			Buckets, ID uint64
		}
		Numbers []struct {
			Number float64
			Text   string
		}
		ItemIDs []struct {
			ItemID string `json:"item_id"`
			Key    string
		} `json:"item_ids"`
	}
	readGolden(t, "hashing.json", &golden)
	if len(golden.Values) < 100 || len(golden.Numbers) < 5 || len(golden.ItemIDs) < 50 {
		t.Fatalf("the file has %d values and %d ids", len(golden.Values), len(golden.ItemIDs))
	}
	for _, entry := range golden.Values {
		hash := xxh3.HashString(entry.Value)
		if strconv.FormatUint(hash, 10) != entry.Hash || 3+hash%entry.Buckets != entry.ID {
			t.Errorf("%q: %d, id %d of %d; want %s, id %d", entry.Value, hash, 3+hash%entry.Buckets, entry.Buckets, entry.Hash, entry.ID)
		}
	}
	for _, entry := range golden.Numbers {
		if text := strconv.FormatFloat(entry.Number, 'f', -1, 64); text != entry.Text {
			t.Errorf("%v is %q, want %q", entry.Number, text, entry.Text)
		}
	}
	for _, entry := range golden.ItemIDs {
		if key := ItemKey(entry.ItemID); strconv.FormatUint(key, 10) != entry.Key {
			t.Errorf("the key of %q is %d, want %s", entry.ItemID, key, entry.Key)
		}
	}
}

func TestReasonsAreTheServers(t *testing.T) {
	var golden struct {
		Reasons []struct {
			Reason     string
			Number     int32
			Code       string
			CodeNumber codes.Code `json:"code_number"`
			Retried    bool
		}
	}
	readGolden(t, "errors.json", &golden)
	if len(golden.Reasons) != len(twotowerv1.ErrorReason_name) {
		t.Fatalf("the file has %d reasons, the contract %d", len(golden.Reasons), len(twotowerv1.ErrorReason_name))
	}
	for _, entry := range golden.Reasons {
		var code codes.Code
		if err := code.UnmarshalJSON([]byte(strconv.Quote(entry.Code))); err != nil || code != entry.CodeNumber {
			t.Errorf("%s is %d, want %d: %v", entry.Code, code, entry.CodeNumber, err)
		}
		var refused *Error
		if !errors.As(errorOf(refusal(code, reasonOf(entry.Reason))), &refused) {
			t.Fatal(entry.Reason)
		}
		if refused.Code != code || int32(refused.Reason) != entry.Number || reasonName(refused.Reason) != entry.Reason {
			t.Errorf("%s: %+v", entry.Reason, refused)
		}
		if refused.mayPass() != entry.Retried {
			t.Errorf("%s is tried again: %t, want %t", entry.Reason, refused.mayPass(), entry.Retried)
		}
	}
}
