// Package routing computes what a traffic split of the server decides: which release serves a user.
//
// The server splits what names no release and sends no embedding, by the user's routing key, else its id. The same
// key goes to the same release on every server, and keeps it while the shares around it grow or shrink. A caller that
// knows the shares (GetServingInfo has them as traffic_share) can therefore know the release before it calls, for
// example to read vectors of that release from Redis:
//
//	release := routing.Arm(userID, shares)
//
// The shares may change in the meantime. The release that an answer names is the one that served it; to have a certain
// one, name it in the request.
package routing

import (
	"slices"

	"github.com/zeebo/xxh3"
)

// Position returns the place of a key in [0, 1): the upper 53 bits of XXH3-64 (seed 0) of its UTF-8 bytes, divided by
// 2^53. It is exact, and equal on every machine and in every language.
func Position(key string) float64 {
	return float64(xxh3.HashString(key)>>11) / (1 << 53)
}

// Arm returns the release that serves a key under a split.
//
// The releases with a share above 0, in bytewise order of their names, each take the part of [0, 1) from where the one
// before ends; the last one takes what rounding leaves. The key goes to the release in whose part its Position lies.
//
// An empty key stands for a call without a user: unless one release has all the traffic, the active release serves it,
// which the shares do not tell. Arm then returns "", as it does without shares.
func Arm(key string, shares map[string]float64) string {
	releases := make([]string, 0, len(shares))
	for release, share := range shares {
		if share > 0 {
			releases = append(releases, release)
		}
	}
	slices.Sort(releases)
	if len(releases) == 0 || key == "" && len(releases) > 1 {
		return ""
	}
	last := len(releases) - 1
	position, end := Position(key), 0.0
	for _, release := range releases[:last] {
		end += shares[release]
		if position < end {
			return release
		}
	}
	return releases[last]
}
