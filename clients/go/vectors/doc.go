// Package vectors reads the vectors of items from Redis and scores them in Go: one call for the user's vector, then only
// dot products.
//
//	reader := vectors.NewReader(redis.NewClient(&redis.Options{Addr: "localhost:6379"}))
//	scorer := vectors.NewScorer(client, reader)
//	...
//	user, err := client.GetUserEmbedding(ctx, map[string]float64{"age": 34})
//	scores, err := scorer.Score(ctx, &user.Embedding, itemIDs)
//	best := vectors.Top(scores, 10)
//
// `twotower items push RELEASE` writes what it reads. Scores equal those of RPC Score within 1e-6, for dot and cosine
// releases.
//
// # Releases
//
// The vectors of two trainings cannot be compared. A user's vector names the release that made it, and the items are
// read of that release and of no other, whatever is active meanwhile. So a release has to be in Redis before it becomes
// active, and stay there while vectors of its users are about.
//
// # Near-cache
//
// The vectors that were read last stay in memory, 64 MiB by default; the vectors of a release never change, so they are
// not read again. What Redis lacks is not kept. Calls that miss the same vector at the same time read it once.
//
// # Errors
//
// A key whose value is no vector of the release, or has another dimension than the user's, is a *ValueError that names
// it. What the server would refuse, and a release that it has not loaded, is a *twotower.Error. What go-redis returns is
// wrapped: errors.Is and errors.As see it.
//
// # A module of its own
//
// It is the module github.com/twotower/twotower/clients/go/vectors, so that the client does not depend on go-redis.
package vectors
