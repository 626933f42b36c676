// Package twotower is the Go client of twotower, a gRPC service for two-tower recommendation models.
//
//	client, err := twotower.Dial(ctx, "localhost:50051")
//	...
//	defer client.Close()
//	user, err := client.GetUserEmbedding(ctx, map[string]float64{"age": 34})
//	found, err := client.Recommend(ctx, &twotower.RecommendRequest{Embedding: &user.Embedding})
//
// # Making a client
//
// Make one with Dial and keep it: it is safe for many goroutines, and the more of them share it the better it gets. It
// opens four connections, because kernels spread connections, not calls, over the workers of a server; WithConnections
// changes that. WithTLS encrypts, WithToken and WithTokenSource log in.
//
// # Releases
//
// A release is user tower, item tower, schema, item vectors and calibration in one. Every answer names the release that
// served it, every Embedding carries the one that made it, and a vector that is sent back is served by its own. Pin and
// PinTo keep all calls of a flow at one release; see the example of Pin.
//
// # Time
//
// A call ends with the deadline of its context, or after WithTimeout (1 s by default) where it has none, retries and
// their waits included.
//
// # Coalescing
//
// Calls of GetUserEmbedding, EmbedUser and Score that are made at the same time go out together: an RPC costs a server
// far more than the work inside it. Each caller keeps its own deadline, answer and error. See Coalescing;
// WithoutCoalescing turns it off.
//
// # Errors
//
// Every call that fails returns an *Error: the gRPC code, the server's reason, the field at fault, and a sentence for
// people. errors.Is knows each reason (ErrItemNotFound, ErrReleaseNotLoaded, ...), ErrUnavailable and ErrClosed, and
// context.DeadlineExceeded and context.Canceled; status.Code and status.FromError work, too. In a batch an entry fails
// alone: its error is in the Errors of the answer, by index.
//
// ErrUnavailable and ErrOverloaded have been tried again already, with growing random waits, before a call returns
// them; see Retry. Releases.Activate, Releases.Rollback and Releases.SetTrafficSplit are never tried again.
//
// # Messages
//
// ServingInfo, the states of releases and filters are the generated messages of
// github.com/twotower/twotower/clients/go/gen/twotower/v1, which documents every field.
package twotower
