package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/service"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

const (
	// exitTampered is the exit code of a verification that has found something, and not just failed.
	exitTampered = 3
	// maxDetails is how many entries are told that are not what their record says, besides what the verifier tells.
	maxDetails = 20
)

// auditVerifyCommand verifies the audit.
type auditVerifyCommand struct {
	Head *auditHead `placeholder:"COUNT:HASH" help:"A head that was seen earlier, in the log or by audit head: the audit must go on from there."`
	control
}

// auditHead is a head as text.
type auditHead tenant.Head

// UnmarshalText takes COUNT:HASH.
func (h *auditHead) UnmarshalText(text []byte) error {
	head, err := tenant.ParseHead(string(text))
	*h = auditHead(head)
	return err
}

// Run reads the audit and prints what is wrong with it; if nothing is, the head that it has. What is added while it runs is
// nothing wrong.
func (c *auditVerifyCommand) Run(ctx context.Context, std stdio) error {
	return c.call(func(api controlPlane) error {
		head, findings, err := verify(ctx, api, (*tenant.Head)(c.Head))
		for _, f := range findings { // also of a verification that came to no end
			if _, err := fmt.Fprintln(std.out, oneLine(f)); err != nil {
				return err
			}
		}
		switch {
		case len(findings) > 0:
			return &exitError{errors.Join(errors.New("the audit is not as it was written"), err), exitTampered}
		case err != nil:
			return err
		}
		_, err = fmt.Fprintf(std.out, "%d entries, head %s\n", head.Count, head)
		return err
	})
}

// verify reads all entries, and returns their head and what is wrong with them. known is a head from before, or nil.
func verify(ctx context.Context, api controlPlane, known *tenant.Head) (head tenant.Head, findings []string, err error) {
	var verifier tenant.Verifier
	found := func(more []tenant.Finding) {
		for _, f := range more {
			findings = append(findings, f.String())
		}
	}
	details := 0
	detail := func(format string, args ...any) {
		if details++; details <= maxDetails {
			findings = append(findings, fmt.Sprintf(format, args...))
		}
	}
	// Whoever may not see the head may not see all entries either.
	before, err := api.head(ctx)
	if err != nil {
		return head, nil, err
	}
	for shown, err := range api.listAudit(ctx, &chatsvcv1.ListAuditEntriesRequest{OrderBy: "sequence", PageSize: pageSize}) {
		if err != nil {
			return head, findings, err
		}
		e, err := entryShown(shown)
		if err != nil {
			detail("%v", err)
		}
		found(verifier.Add(e))
		if fields := otherThanRecord(shown); len(fields) > 0 {
			detail("entry %d does not show the %s of its record", shown.GetSequence(), strings.Join(fields, ", "))
		}
	}
	if more := details - maxDetails; more > 0 {
		findings = append(findings, fmt.Sprintf("and %d more do not show their record", more))
	}
	after, err := api.head(ctx)
	if err != nil {
		return head, findings, err
	}
	head = verifier.Head()
	if after.Count < head.Count {
		findings = append(findings, fmt.Sprintf("there are %d entries, and the head says %d", head.Count, after.Count))
	}
	var heads []*tenant.Head
	for _, h := range []*tenant.Head{known, &before, &after} {
		appended := h == &after && h.Count > head.Count
		if h != nil && !appended && !slices.ContainsFunc(heads, func(other *tenant.Head) bool { return *other == *h }) {
			heads = append(heads, h)
		}
	}
	found(verifier.Finish(heads...))
	return head, findings, nil
}

// head returns the head of the audit.
func (api controlPlane) head(ctx context.Context) (tenant.Head, error) {
	h, err := api.audit.GetAuditHead(ctx, &chatsvcv1.GetAuditHeadRequest{})
	if err != nil {
		return tenant.Head{}, err
	}
	return tenant.ParseHead(fmt.Sprintf("%d:%s", h.GetCount(), h.GetHash()))
}

// entryShown returns what the verifier looks at.
func entryShown(shown *chatsvcv1.AuditEntry) (*tenant.Entry, error) {
	e := &tenant.Entry{
		Sequence: shown.GetSequence(), Record: shown.GetRecord(),
		Team: strings.TrimPrefix(shown.GetTeam(), "teams/"), Source: shown.GetSource(), Reason: shown.GetReason(),
	}
	if shown.GetCreateTime().IsValid() { // of a record that cannot be read there is none
		e.Time = shown.GetCreateTime().AsTime()
	}
	hash, err := hex.DecodeString(shown.GetHash())
	if err != nil || copy(e.Hash[:], hash) != len(hash) || len(hash) != len(e.Hash) {
		return e, fmt.Errorf("entry %d has a hash that is none", e.Sequence)
	}
	return e, nil
}

// otherThanRecord names the fields of an entry that its record has otherwise, besides those that the verifier looks at.
func otherThanRecord(shown *chatsvcv1.AuditEntry) (fields []string) {
	record, err := tenant.ParseEntry(shown.GetRecord())
	if err != nil {
		return nil // the verifier says so
	}
	want := service.EntryToProto(record)
	want.Sequence, want.CreateTime, want.Reason, want.Team, want.Source = shown.GetSequence(), shown.GetCreateTime(), shown.GetReason(), shown.GetTeam(), shown.GetSource()
	want.Record, want.Hash = shown.GetRecord(), shown.GetHash()
	if proto.Equal(shown, want) {
		return nil
	}
	a, b := shown.ProtoReflect(), want.ProtoReflect()
	for i := range a.Descriptor().Fields().Len() {
		if field := a.Descriptor().Fields().Get(i); !a.Get(field).Equal(b.Get(field)) {
			fields = append(fields, string(field.Name()))
		}
	}
	return fields
}
