package twotower

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
)

const (
	// releasesTimeout is that of calls without a deadline: a switch waits for all workers and for the other servers of
	// a fleet, by their defaults up to 90 s, and the releases can be in an object store.
	releasesTimeout = 2 * time.Minute
	releasesPoll    = 200 * time.Millisecond
)

// Releases lists and loads the releases of a server, switches between them, and splits the traffic.
//
// Activate, Rollback and SetTrafficSplit are sent once, whatever Retry says: where the connection broke in the middle
// the switch may have happened, and somebody else may have switched back by the next attempt, which would undo that.
// After ErrUnavailable or context.DeadlineExceeded see what List says before calling again.
type Releases struct{ core *core }

// Releases manages the releases of the server.
func (c *Client) Releases() *Releases { return &Releases{c.core} }

// List returns every release that the server has, loaded or not, by name.
func (r *Releases) List(ctx context.Context) ([]*twotowerv1.ReleaseStatus, error) {
	ctx, cancel := r.core.deadline(ctx, releasesTimeout)
	defer cancel()
	var found []*twotowerv1.ReleaseStatus
	for token, more := "", true; more; more = token != "" {
		response := &twotowerv1.ListReleasesResponse{}
		request := &twotowerv1.ListReleasesRequest{PageToken: token}
		method := twotowerv1.ReleaseService_ListReleases_FullMethodName
		if err := r.core.call(ctx, method, request, response); err != nil {
			return nil, err
		}
		found = append(found, response.GetReleases()...)
		token = response.GetNextPageToken()
	}
	return found, nil
}

// Load has a release verified and opened beside the active one, and returns at once, usually with the state VERIFYING.
// A loaded release stays as it is.
func (r *Releases) Load(ctx context.Context, release string) (*twotowerv1.ReleaseStatus, error) {
	ctx, cancel := r.core.deadline(ctx, releasesTimeout)
	defer cancel()
	response := &twotowerv1.LoadReleaseResponse{}
	request := &twotowerv1.LoadReleaseRequest{Release: release}
	method := twotowerv1.ReleaseService_LoadRelease_FullMethodName
	if err := r.core.call(ctx, method, request, response); err != nil {
		return nil, err
	}
	return response.GetStatus(), nil
}

// LoadAndWait is Load, and waits until the release is loaded. ErrReleaseNotLoaded says why it was refused. When the
// context ends the server goes on.
func (r *Releases) LoadAndWait(ctx context.Context, release string) (*twotowerv1.ReleaseStatus, error) {
	ctx, cancel := r.core.deadline(ctx, releasesTimeout)
	defer cancel()
	status, err := r.Load(ctx, release)
	for err == nil {
		loaded, refused := loadedOf(release, status)
		if refused != nil {
			return nil, refused
		}
		if loaded {
			return status, nil
		}
		select {
		case <-time.After(releasesPoll):
		case <-ctx.Done():
			return nil, contextError(ctx)
		}
		status, err = r.status(ctx, release)
	}
	return nil, err
}

// Activate makes a loaded release the active one and returns the one before. The traffic split, if any, ends. A call
// that is made after this one has returned is served by the new release, unless it is pinned.
//
// expectedActive has to be active now, else nothing changes and the error is ErrReleaseMismatch; "" = whatever is.
func (r *Releases) Activate(ctx context.Context, release, expectedActive string) (previous string, err error) {
	response := &twotowerv1.ActivateReleaseResponse{}
	request := &twotowerv1.ActivateReleaseRequest{Release: release, ExpectedActive: expectedActive}
	err = r.once(ctx, twotowerv1.ReleaseService_ActivateRelease_FullMethodName, request, response)
	return response.GetPrevious(), err
}

// Rollback makes the release active that was active before `from`, and returns it. ErrReleaseMismatch when another one
// than `from` is active: calling it again does not flip back.
func (r *Releases) Rollback(ctx context.Context, from string) (active string, err error) {
	response := &twotowerv1.RollbackReleaseResponse{}
	request := &twotowerv1.RollbackReleaseRequest{FromRelease: from}
	err = r.once(ctx, twotowerv1.ReleaseService_RollbackRelease_FullMethodName, request, response)
	return response.GetActive(), err
}

// SetTrafficSplit splits what is not pinned between loaded releases, by routing key, else user id, and returns the
// shares that apply now. shares: from 0 to 1, with the sum 1; empty = everything to the active release.
func (r *Releases) SetTrafficSplit(ctx context.Context, shares map[string]float64) (map[string]float64, error) {
	response := &twotowerv1.SetTrafficSplitResponse{}
	request := &twotowerv1.SetTrafficSplitRequest{Shares: shares}
	err := r.once(ctx, twotowerv1.ReleaseService_SetTrafficSplit_FullMethodName, request, response)
	return response.GetShares(), err
}

func (r *Releases) once(ctx context.Context, method string, request, response any) error {
	ctx, cancel := r.core.deadline(ctx, releasesTimeout)
	defer cancel()
	return r.core.once(ctx, method, request, response)
}

func (r *Releases) status(ctx context.Context, release string) (*twotowerv1.ReleaseStatus, error) {
	all, err := r.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, one := range all {
		if one.GetInfo().GetRelease() == release {
			return one, nil
		}
	}
	return nil, notLoaded(fmt.Sprintf("release %q was removed while it was loaded", release))
}

// loadedOf: false while the server works on it; an error when it does not, or has refused the release.
func loadedOf(release string, status *twotowerv1.ReleaseStatus) (bool, error) {
	switch status.GetState() {
	case twotowerv1.ReleaseState_RELEASE_STATE_LOADED, twotowerv1.ReleaseState_RELEASE_STATE_ACTIVE:
		return true, nil
	case twotowerv1.ReleaseState_RELEASE_STATE_VERIFYING:
		return false, nil
	case twotowerv1.ReleaseState_RELEASE_STATE_REFUSED:
		return false, notLoaded(fmt.Sprintf("release %q was refused: %s", release, status.GetReason()))
	default:
		return false, notLoaded(fmt.Sprintf(
			"the server no longer loads release %q: it restarted or retired the release; load it again", release))
	}
}

func notLoaded(message string) *Error {
	return &Error{
		Code:    codes.FailedPrecondition,
		Reason:  twotowerv1.ErrorReason_ERROR_REASON_RELEASE_NOT_LOADED,
		Message: message,
	}
}
