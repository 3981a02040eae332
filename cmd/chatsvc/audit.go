package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// auditCommand groups the commands about the audit.
type auditCommand struct {
	List   auditListCommand   `cmd:"" help:"List who changed what, and who was denied."`
	Head   auditHeadCommand   `cmd:"" help:"Print the head of the audit, for a later audit verify --head."`
	Verify auditVerifyCommand `cmd:"" help:"Read the whole audit and say where it is not as it was written; exit code 3 then, and 1 where it cannot be read."`
}

func auditColumns() []column[*chatsvcv1.AuditEntry] {
	return []column[*chatsvcv1.AuditEntry]{
		{"#", func(e *chatsvcv1.AuditEntry) string { return fmt.Sprint(e.GetSequence()) }},
		{"TIME", func(e *chatsvcv1.AuditEntry) string { return utc(e.GetCreateTime()) }},
		{"OUTCOME", func(e *chatsvcv1.AuditEntry) string { return enumName(e.GetOutcome(), "AUDIT_OUTCOME_") }},
		{"ACTION", func(e *chatsvcv1.AuditEntry) string { return strings.TrimPrefix(e.GetAction(), "chatsvc.v1.") }},
		{"ACTOR", func(e *chatsvcv1.AuditEntry) string { return short(e.GetActor()) }},
		{"CREDENTIAL", (*chatsvcv1.AuditEntry).GetCredential},
		{"SOURCE", (*chatsvcv1.AuditEntry).GetSource},
		{"RESOURCE", func(e *chatsvcv1.AuditEntry) string { return short(e.GetResource()) }},
		{"DETAILS", auditDetails},
	}
}

// auditDetails returns why a call was denied, or what it has changed.
func auditDetails(e *chatsvcv1.AuditEntry) string {
	details := make([]string, 0, len(e.GetChanges())+1)
	if reason := e.GetReason(); reason != "" {
		if e.GetCount() > 1 {
			reason += fmt.Sprintf(" (%d times)", e.GetCount())
		}
		details = append(details, reason)
	}
	for _, change := range e.GetChanges() {
		value := change.GetNewValue()
		if change.GetOldValue() != "" {
			value = change.GetOldValue() + " → " + value
		}
		details = append(details, change.GetField()+": "+value)
	}
	return strings.Join(details, "; ")
}

// listAudit returns the entries that a request asks for.
func (api controlPlane) listAudit(ctx context.Context, request *chatsvcv1.ListAuditEntriesRequest) iter.Seq2[*chatsvcv1.AuditEntry, error] {
	return listed(func(token string) ([]*chatsvcv1.AuditEntry, string, error) {
		request.PageToken = token
		page, err := api.audit.ListAuditEntries(ctx, request)
		return page.GetAuditEntries(), page.GetNextPageToken(), err
	})
}

// auditListCommand lists entries.
type auditListCommand struct {
	Team        teamName `placeholder:"TEAM" help:"Only the entries of this team."`
	Since       *span    `placeholder:"DURATION" help:"Only the entries of so long, such as 24h or 7d."`
	Limit       int32    `default:"50" placeholder:"N" help:"How many at most (${default}); 0 is all."`
	OldestFirst bool     `help:"The oldest first, instead of the newest."`
	output
	control
}

// Validate refuses a limit that is none.
func (c *auditListCommand) Validate() error {
	if c.Limit < 0 {
		return fmt.Errorf("--limit %d: must be at least 0", c.Limit)
	}
	return c.connection.Validate()
}

// Run lists the entries. Where there are none of a team, it says so if the team is not registered; what only the configuration
// names has entries all the same.
func (c *auditListCommand) Run(ctx context.Context, std stdio) error {
	request := &chatsvcv1.ListAuditEntriesRequest{Team: string(c.Team), PageSize: pageSize}
	if c.Limit > 0 {
		request.PageSize = min(c.Limit, pageSize)
	}
	if c.Since != nil {
		request.StartTime = timestamppb.New(time.Now().Add(-time.Duration(*c.Since)))
	}
	if c.OldestFirst {
		request.OrderBy = "sequence"
	}
	return c.call(func(api controlPlane) error {
		none := true
		err := show(std, c.output, auditColumns(), func(yield func(*chatsvcv1.AuditEntry, error) bool) {
			for e, err := range limited(api.listAudit(ctx, request), c.Limit) {
				none = false
				if !yield(e, err) {
					return
				}
			}
		})
		if err != nil || !none || c.Team == "" {
			return err
		}
		_, err = api.teams.GetTeam(ctx, &chatsvcv1.GetTeamRequest{Name: string(c.Team)})
		if failure, ok := errors.AsType[*callError](err); ok && failure.Reason == "NOT_FOUND" {
			fmt.Fprintf(std.err, "chatsvc: %s\n", failure.Message)
		}
		return nil
	})
}

// limited returns the first n of rows; 0 is all.
func limited[M any](rows iter.Seq2[M, error], n int32) iter.Seq2[M, error] {
	return func(yield func(M, error) bool) {
		left := n
		for m, err := range rows {
			if left--; !yield(m, err) || left == 0 {
				return
			}
		}
	}
}

// auditHeadCommand prints the head.
type auditHeadCommand struct {
	output
	control
}

// Run prints the head.
func (c *auditHeadCommand) Run(ctx context.Context, std stdio) error {
	return c.call(func(api controlPlane) error {
		head, err := api.audit.GetAuditHead(ctx, &chatsvcv1.GetAuditHeadRequest{})
		if err != nil {
			return err
		}
		if c.JSON {
			return writeJSON(std.out, head)
		}
		_, err = fmt.Fprintf(std.out, "%d:%s\n", head.GetCount(), oneLine(head.GetHash()))
		return err
	})
}
