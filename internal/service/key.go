package service

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/interceptor"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// keyService is KeyService.
type keyService struct {
	chatsvcv1.UnsafeKeyServiceServer

	registry *tenant.Registry
}

var _ chatsvcv1.KeyServiceServer = (*keyService)(nil)

func (s *keyService) CreateKey(ctx context.Context, in *chatsvcv1.CreateKeyRequest) (*chatsvcv1.Key, error) {
	team, client, err := parseClient("parent", in.GetParent())
	if err != nil {
		return nil, err
	}
	p, err := changing.within(ctx, team)
	if err != nil {
		return nil, err
	}
	spec, err := keySpecFromProto(in.GetKey())
	if err != nil {
		return nil, err
	}
	spec.Team, spec.Client = team, client
	k, token, err := s.registry.CreateKey(ctx, interceptor.AuditEntry(ctx), p.Roles, spec, in.GetRequestId())
	if err != nil {
		return nil, err
	}
	return newKeyToProto(k, token), nil
}

func (s *keyService) GetKey(ctx context.Context, in *chatsvcv1.GetKeyRequest) (*chatsvcv1.Key, error) {
	team, client, key, err := parseKey(in.GetName())
	if err != nil {
		return nil, err
	}
	_, view, err := visible(ctx, s.registry, team)
	if err != nil {
		return nil, err
	}
	k := view.Key(key)
	if k == nil || k.Team != team || k.Client != client {
		return nil, notFound(nil)
	}
	return keyToProto(k, time.Now()), nil
}

func (s *keyService) ListKeys(ctx context.Context, in *chatsvcv1.ListKeysRequest) (*chatsvcv1.ListKeysResponse, error) {
	team, client, err := parseKeysParent("parent", in.GetParent())
	if err != nil {
		return nil, err
	}
	p, view, err := visible(ctx, s.registry, team)
	if err != nil {
		return nil, err
	}
	if client != "" && view.Client(team, client) == nil {
		return nil, notFound(nil)
	}
	now := time.Now()
	page, next, err := pageOf(newQuery("ListKeys", p.Team, team, client), in.GetPageToken(), in.GetPageSize(), view.Keys(team, client),
		func(k *tenant.Key) string { return k.ID },
		func(k *tenant.Key) *chatsvcv1.Key { return keyToProto(k, now) })
	if err != nil {
		return nil, err
	}
	return &chatsvcv1.ListKeysResponse{Keys: page, NextPageToken: next}, nil
}

func (s *keyService) RotateKey(ctx context.Context, in *chatsvcv1.RotateKeyRequest) (*chatsvcv1.Key, error) {
	team, client, key, err := parseKey(in.GetName())
	if err != nil {
		return nil, err
	}
	p, err := changing.within(ctx, team)
	if err != nil {
		return nil, err
	}
	overlap := tenant.DefaultOverlap
	if in.GetOverlap() != nil {
		overlap = in.GetOverlap().AsDuration()
	}
	k, token, err := s.registry.RotateKey(ctx, interceptor.AuditEntry(ctx), p.Roles, team, client, key, overlap, in.GetRequestId())
	if err != nil {
		return nil, err
	}
	return newKeyToProto(k, token), nil
}

func (s *keyService) RevokeKey(ctx context.Context, in *chatsvcv1.RevokeKeyRequest) (*chatsvcv1.Key, error) {
	team, client, key, err := parseKey(in.GetName())
	if err != nil {
		return nil, err
	}
	p, err := changing.within(ctx, team)
	if err != nil {
		return nil, err
	}
	k, err := s.registry.RevokeKey(ctx, interceptor.AuditEntry(ctx), p.Roles, team, client, key)
	if err != nil {
		return nil, err
	}
	return keyToProto(k, time.Now()), nil
}

// keySpecFromProto converts what callers set in a key. Which of it a key may have, the registry knows.
func keySpecFromProto(in *chatsvcv1.Key) (spec tenant.KeySpec, err error) {
	spec = tenant.KeySpec{DisplayName: in.GetDisplayName(), AllowedModels: in.GetAllowedModels()}
	for i, role := range in.GetRoles() {
		if !tenant.Role(role).Valid() { // both have the same numbers; a test compares them
			return spec, invalid(fmt.Sprintf("key.roles[%d]", i), "must be one of the roles")
		}
		spec.Roles |= tenant.RolesOf(tenant.Role(role))
	}
	for i, text := range in.GetAllowedCidrs() {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return spec, invalid(fmt.Sprintf("key.allowed_cidrs[%d]", i),
				"must be a network in CIDR notation, such as 10.0.0.0/8 or 2001:db8::/32")
		}
		spec.AllowedCIDRs = append(spec.AllowedCIDRs, network)
	}
	spec.ExpireTime, err = timeFromProto("key.expire_time", in.GetExpireTime())
	return spec, err
}

// newKeyToProto is keyToProto of a key that was just made, with what is never shown again.
func newKeyToProto(k *tenant.Key, token string) *chatsvcv1.Key {
	out := keyToProto(k, time.Now())
	out.Secret = token
	return out
}

func keyToProto(k *tenant.Key, now time.Time) *chatsvcv1.Key {
	out := &chatsvcv1.Key{
		Name: k.Name(), DisplayName: k.DisplayName, Roles: rolesToProto(k.Roles), AllowedModels: k.AllowedModels,
		ExpireTime: timeToProto(k.ExpireTime), CreateTime: timeToProto(k.CreateTime), RevokeTime: timeToProto(k.RevokeTime),
		State: chatsvcv1.KeyState_KEY_STATE_ACTIVE,
	}
	for _, network := range k.AllowedCIDRs {
		out.AllowedCidrs = append(out.AllowedCidrs, network.String())
	}
	if k.ReplacedBy != "" {
		out.ReplacedBy = tenant.KeyName(k.Team, k.Client, k.ReplacedBy)
	}
	switch {
	case !k.RevokeTime.IsZero():
		out.State = chatsvcv1.KeyState_KEY_STATE_REVOKED
	case k.Ended(now):
		out.State = chatsvcv1.KeyState_KEY_STATE_EXPIRED
	}
	return out
}

func rolesToProto(roles tenant.Roles) []chatsvcv1.AccessRole {
	list := roles.List()
	out := make([]chatsvcv1.AccessRole, len(list))
	for i, role := range list {
		out[i] = chatsvcv1.AccessRole(role)
	}
	return out
}
