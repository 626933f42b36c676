package reckit

import (
	"strconv"
	"strings"

	"github.com/rushteam/reckit/core"

	"github.com/twotower/twotower/clients/go/twotower"
)

// UserOf is everything that a context says about its user, as Recall and Rank send it:
//
//   - UserID is the id; without one DeviceID routes a traffic split, so that a device stays with its release;
//   - numbers and bools of Attributes and Params are numeric features, as for Reckit's own extractors. Params win;
//   - strings are categories, lists (of strings or whole numbers) are tags and sequences, such as recent_clicks, oldest
//     first;
//   - Scene is the feature scene, which is user_scene to the server.
//
// Everything else is left out. Names that the release does not know are ignored by the server.
func UserOf(rctx *core.RecommendContext) *twotower.User {
	user := &twotower.User{Features: map[string]float64{}, StringFeatures: map[string][]string{}}
	if rctx == nil {
		return user
	}
	user.ID = rctx.UserID
	if user.ID == "" {
		user.RoutingKey = rctx.DeviceID
	}
	if rctx.Scene != "" {
		setFeature(user, "scene", rctx.Scene)
	}
	for name, value := range rctx.Attributes {
		setFeature(user, name, value)
	}
	for name, value := range rctx.Params {
		setFeature(user, name, value)
	}
	return user
}

// setFeature replaces a feature: a name in two maps would be refused.
func setFeature(user *twotower.User, name string, value any) {
	if number, ok := numberOf(value); ok {
		user.Features[name] = number
		delete(user.StringFeatures, name)
	} else if texts, ok := textsOf(value); ok {
		user.StringFeatures[name] = texts
		delete(user.Features, name)
	}
}

// addEnriched adds what feature.EnrichNode wrote into a candidate about the user: user_age, user_user_age where the
// name had its prefix before, scene_page. Those names win over the same without prefix.
func addEnriched(user *twotower.User, features map[string]float64) {
	for name, value := range features {
		if strings.HasPrefix(name, "user_") || strings.HasPrefix(name, "scene_") {
			if _, given := user.StringFeatures[name]; !given {
				user.Features[name] = value
			}
		}
	}
}

// numberOf takes what Reckit takes for a number.
func numberOf(value any) (float64, bool) {
	switch value := value.(type) {
	case float64:
		return value, true
	case float32:
		return float64(value), true
	case int:
		return float64(value), true
	case int64:
		return float64(value), true
	case int32:
		return float64(value), true
	case bool:
		if value {
			return 1, true
		}
		return 0, true
	default:
		return 0, false
	}
}

func textsOf(value any) ([]string, bool) {
	switch value := value.(type) {
	case string:
		return []string{value}, true
	case []string:
		return value, true
	case []int:
		return each(value, func(id int) (string, bool) { return strconv.Itoa(id), true })
	case []int64:
		return each(value, func(id int64) (string, bool) { return strconv.FormatInt(id, 10), true })
	case []any: // as JSON has them
		return each(value, func(one any) (string, bool) {
			text, ok := one.(string)
			return text, ok
		})
	default:
		return nil, false
	}
}

func each[T any](values []T, convert func(T) (string, bool)) ([]string, bool) {
	texts := make([]string, len(values))
	for i, value := range values {
		text, ok := convert(value)
		if !ok {
			return nil, false
		}
		texts[i] = text
	}
	return texts, true
}
