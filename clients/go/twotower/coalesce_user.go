package twotower

import (
	"context"
	"strings"
	"sync"
)

// userCoalescers has a coalescer for each release and cache mode: a BatchGetUserEmbeddings has one of each. They stay as
// long as the client; a server has few releases.
type userCoalescers struct {
	core   *core
	limits Coalescing
	byCall sync.Map // callOptions to *coalescer[*UserEmbedding]
}

func (u *userCoalescers) of(o callOptions) *coalescer[*UserEmbedding] {
	if found, ok := u.byCall.Load(o); ok {
		return found.(*coalescer[*UserEmbedding])
	}
	made := &coalescer[*UserEmbedding]{
		limits: u.limits,
		one: func(ctx context.Context, user encoded) (*UserEmbedding, error) {
			return u.core.sendUser(ctx, user, o)
		},
		many: func(ctx context.Context, users []encoded) ([]answer[*UserEmbedding], error) {
			found, err := u.core.sendUsers(ctx, users, o)
			if err != nil {
				return nil, err
			}
			answers := make([]answer[*UserEmbedding], len(users))
			for i := range answers {
				if err := found.Errors[i]; err != nil {
					answers[i].err = err.asCall(entryField("users", i), "user")
					continue
				}
				own := found.Embeddings[i] // a caller who keeps it keeps nothing of the others
				answers[i].value = &own
			}
			return answers, nil
		},
	}
	found, _ := u.byCall.LoadOrStore(o, made)
	return found.(*coalescer[*UserEmbedding])
}

// asCall is the error of an entry as its own call would have had it: its field begins with `alone`, not with the place
// in the batch.
func (e *Error) asCall(entry, alone string) *Error {
	own := *e
	if rest, ok := strings.CutPrefix(e.Field, entry); ok {
		own.Field = strings.TrimPrefix(alone+rest, ".")
	}
	return &own
}
