package forgetful

import (
	"context"

	"github.com/chatsvc/chatsvc/internal/tenant"
)

// Tenants is a tenant.Store in which nobody is registered, and that forgets who was denied: who may call is for the
// configuration alone to say.
type Tenants struct{}

var _ tenant.Store = Tenants{}

// Put implements tenant.Store.
func (Tenants) Put(context.Context, *tenant.Change, *tenant.Entry) error { return errForgotten }

// Record implements tenant.Store.
func (Tenants) Record(context.Context, *tenant.Entry, bool) error { return nil }

// Changes implements tenant.Store.
func (Tenants) Changes(context.Context, tenant.Head) (*tenant.Changes, error) {
	return &tenant.Changes{All: true}, nil
}

// Changed implements tenant.Store.
func (Tenants) Changed() (wake <-chan struct{}, stop func()) { return nil, func() {} }

// Entries implements tenant.Store.
func (Tenants) Entries(context.Context, tenant.EntryFilter, int) ([]*tenant.Entry, error) {
	return nil, errForgotten
}

// Head implements tenant.Store.
func (Tenants) Head(context.Context) (tenant.Head, error) { return tenant.Head{}, errForgotten }
