// Package core is the domain.
package core

// RecommendContext is one request.
type RecommendContext struct {
	UserID     string
	DeviceID   string
	Scene      string
	User       any
	Attributes map[string]any
	Params     map[string]any
}
