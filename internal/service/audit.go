package service

import (
	"context"
	"encoding/hex"
	"strconv"
	"time"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// auditService is AuditService.
type auditService struct {
	chatsvcv1.UnsafeAuditServiceServer

	audit AuditReader
}

var _ chatsvcv1.AuditServiceServer = (*auditService)(nil)

// ListAuditEntries does not ask whether the team is there: the audit also has entries of teams that only the configuration
// names.
func (s *auditService) ListAuditEntries(ctx context.Context, in *chatsvcv1.ListAuditEntriesRequest) (*chatsvcv1.ListAuditEntriesResponse, error) {
	filter, err := entryFilterFromProto(in)
	if err != nil {
		return nil, err
	}
	p, err := principal(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case filter.Team != "":
		_, err = reading.within(ctx, filter.Team)
	case !reading.sees(p):
		filter.Team = p.Team
	}
	if err != nil {
		return nil, err
	}
	q := newQuery("ListAuditEntries", p.Team, filter.Team,
		filter.Start.Format(time.RFC3339Nano), filter.End.Format(time.RFC3339Nano), strconv.FormatBool(filter.Ascending))
	after, err := q.fromOffset(in.GetPageToken())
	if err != nil {
		return nil, err
	}
	page, last, err := fillPage(after, pageSize(in.GetPageSize()), maxEntriesRead,
		func(after int64, limit int) ([]*tenant.Entry, error) {
			filter.After = after
			return s.audit.Entries(ctx, filter, limit)
		},
		func(e *tenant.Entry) int64 { return e.Sequence },
		EntryToProto)
	if err != nil {
		return nil, err
	}
	out := &chatsvcv1.ListAuditEntriesResponse{AuditEntries: page}
	if last != 0 {
		out.NextPageToken = q.offsetToken(last)
	}
	return out, nil
}

func entryFilterFromProto(in *chatsvcv1.ListAuditEntriesRequest) (filter tenant.EntryFilter, err error) {
	if in.GetTeam() != "" {
		if filter.Team, err = parseTeam("team", in.GetTeam()); err != nil {
			return filter, err
		}
	}
	if filter.Start, err = timeFromProto("start_time", in.GetStartTime()); err != nil {
		return filter, err
	}
	if filter.End, err = timeFromProto("end_time", in.GetEndTime()); err != nil {
		return filter, err
	}
	switch in.GetOrderBy() {
	case "", "sequence desc":
	case "sequence":
		filter.Ascending = true
	default:
		return filter, invalid("order_by", "must be `sequence desc` or `sequence`")
	}
	return filter, nil
}

func (s *auditService) GetAuditHead(ctx context.Context, _ *chatsvcv1.GetAuditHeadRequest) (*chatsvcv1.AuditHead, error) {
	if _, err := principal(ctx); err != nil {
		return nil, err
	}
	head, err := s.audit.Head(ctx)
	if err != nil {
		return nil, err
	}
	return &chatsvcv1.AuditHead{Count: head.Count, Hash: hex.EncodeToString(head.Hash[:])}, nil
}

// EntryToProto returns an entry as callers see it. Of one whose record says nothing that can be understood there is the record itself.
func EntryToProto(e *tenant.Entry) *chatsvcv1.AuditEntry {
	out := &chatsvcv1.AuditEntry{
		Sequence: e.Sequence, CreateTime: timeToProto(e.Time), Action: e.Action, Reason: e.Reason,
		Credential: e.Actor.Credential, Source: e.Source, Resource: e.Resource, TraceId: e.TraceID, Count: e.Count,
		Record: e.Record, Hash: hex.EncodeToString(e.Hash[:]),
	}
	switch e.Outcome {
	case tenant.Changed:
		out.Outcome = chatsvcv1.AuditOutcome_AUDIT_OUTCOME_CHANGED
	case tenant.Denied:
		out.Outcome = chatsvcv1.AuditOutcome_AUDIT_OUTCOME_DENIED
	}
	if e.Team != "" {
		out.Team = tenant.TeamName(e.Team)
	}
	if e.Actor.Team != "" {
		out.Actor = tenant.ClientName(e.Actor.Team, e.Actor.Client)
	}
	for _, c := range e.Changes {
		out.Changes = append(out.Changes, &chatsvcv1.AuditChange{Field: c.Field, OldValue: c.Old, NewValue: c.New})
	}
	return out
}
