package routing_test

import (
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"strconv"
	"testing"

	"github.com/zeebo/xxh3"

	"github.com/twotower/twotower/clients/go/routing"
)

// golden is the file that the tests of the server read, too (tests/go/test_routing.py).
type golden struct {
	Positions []struct {
		Key, Hash, Position string
	}
	Splits []struct {
		Shares map[string]float64
		Arms   map[string]string
	}
}

func readGolden(t *testing.T) golden {
	t.Helper()
	text, err := os.ReadFile("../../../tests/golden/routing.json")
	if err != nil {
		t.Fatal(err)
	}
	var read golden
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	if len(read.Positions) < 300 || len(read.Splits) < 5 {
		t.Fatalf("the file has %d positions and %d splits", len(read.Positions), len(read.Splits))
	}
	return read
}

func TestPositionEqualsTheServers(t *testing.T) {
	for _, entry := range readGolden(t).Positions {
		if hash := strconv.FormatUint(xxh3.HashString(entry.Key), 10); hash != entry.Hash {
			t.Errorf("the hash of %q is %s, want %s", entry.Key, hash, entry.Hash)
		}
		decimal, ok := new(big.Rat).SetString(entry.Position)
		if !ok {
			t.Fatalf("%q is no decimal", entry.Position)
		}
		if want, exact := decimal.Float64(); !exact || routing.Position(entry.Key) != want {
			t.Errorf("Position(%q) = %v, want %s", entry.Key, routing.Position(entry.Key), entry.Position)
		}
	}
}

func TestArmEqualsTheServers(t *testing.T) {
	for _, split := range readGolden(t).Splits {
		for key, want := range split.Arms {
			if got := routing.Arm(key, split.Shares); got != want {
				t.Errorf("Arm(%q, %v) = %q, want %q", key, split.Shares, got, want)
			}
		}
	}
}

func TestArmOfAReleaseWithoutTraffic(t *testing.T) {
	// As GetServingInfo lists them: loaded, but with no share.
	shares := map[string]float64{"a": 0, "b": 0.5, "c": 0.5, "d": 0}
	for i := range 1000 {
		if arm := routing.Arm(fmt.Sprint("u", i), shares); arm != "b" && arm != "c" {
			t.Fatalf("u%d goes to %q", i, arm)
		}
	}
}

func TestArmOfAnEmptyKey(t *testing.T) {
	for _, test := range []struct {
		shares map[string]float64
		want   string
	}{
		{nil, ""},
		{map[string]float64{"a": 1}, "a"},
		{map[string]float64{"a": 1, "b": 0}, "a"},
		{map[string]float64{"a": 0.5, "b": 0.5}, ""},
	} {
		if got := routing.Arm("", test.shares); got != test.want {
			t.Errorf("Arm of no key under %v = %q, want %q", test.shares, got, test.want)
		}
	}
	if got := routing.Arm("u1", nil); got != "" {
		t.Errorf("Arm without shares = %q", got)
	}
}

func TestArmStaysWhileSharesGrow(t *testing.T) {
	moved := 0
	for i := range 10_000 {
		key := fmt.Sprint("u", i)
		before := routing.Arm(key, map[string]float64{"new": 0.1, "old": 0.9})
		after := routing.Arm(key, map[string]float64{"new": 0.2, "old": 0.8})
		if before == "new" && after != "new" {
			t.Fatalf("%s went back from new to %s", key, after)
		}
		if before != after {
			moved++
		}
	}
	if moved < 800 || moved > 1200 {
		t.Errorf("%d of 10,000 keys moved, want about 1,000", moved)
	}
}

func ExampleArm() {
	shares := map[string]float64{"2026-05-01": 0.9, "2026-05-02": 0.1}
	for _, userID := range []string{"u1", "u2", "u3"} {
		fmt.Printf("%s %.4f %s\n", userID, routing.Position(userID), routing.Arm(userID, shares))
	}
	// Output:
	// u1 0.6162 2026-05-01
	// u2 0.4982 2026-05-01
	// u3 0.9955 2026-05-02
}
