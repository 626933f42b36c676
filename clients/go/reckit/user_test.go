package reckit_test

import (
	"reflect"
	"testing"

	"github.com/rushteam/reckit/core"

	"github.com/twotower/twotower/clients/go/reckit"
	"github.com/twotower/twotower/clients/go/twotower"
)

func TestTheUserIsReadFromTheContext(t *testing.T) {
	user := reckit.UserOf(&core.RecommendContext{
		UserID:   "u1",
		DeviceID: "d1",
		Scene:    "feed",
		Attributes: map[string]any{
			"age": 34, "interest_sport": float32(0.5), "vip": true, "hour": 8.0, "city": "Oslo",
			"recent_clicks": []string{"i7", "i9"}, "tags": []any{"a", "b"}, "shelf": []int64{12, 7}, "level": []int{3},
			"user_embedding": []float64{1, 2}, "mixed": []any{"a", 1}, "profile": struct{}{}, "nothing": nil,
		},
		Params: map[string]any{"hour": int64(20), "city": 7, "age": "34"},
	})
	want := &twotower.User{
		ID:       "u1",
		Features: map[string]float64{"interest_sport": 0.5, "vip": 1, "hour": 20, "city": 7},
		StringFeatures: map[string][]string{
			"scene": {"feed"}, "recent_clicks": {"i7", "i9"}, "tags": {"a", "b"}, "shelf": {"12", "7"}, "level": {"3"},
			"age": {"34"},
		},
	}
	if !reflect.DeepEqual(user, want) {
		t.Errorf("%+v\nwant %+v", user, want)
	}
}

func TestADeviceRoutesWhereNoUserDoes(t *testing.T) {
	if user := reckit.UserOf(&core.RecommendContext{DeviceID: "d1"}); user.ID != "" || user.RoutingKey != "d1" {
		t.Errorf("%+v", user)
	}
	if user := reckit.UserOf(nil); user.ID != "" || user.RoutingKey != "" || len(user.Features) != 0 {
		t.Errorf("%+v", user)
	}
}
