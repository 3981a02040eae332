package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"path"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

const (
	// callTime is how long one call of the control plane may take.
	callTime = 10 * time.Second
	// pageSize is how much is asked for at once: so much of the longest fits in maxReply.
	pageSize = 200
)

// control is the flags of the commands that call the control plane.
type control struct {
	connection `set:"address=localhost:50052" set:"variable=CHATSVC_ADMIN_ADDRESS" set:"callee=the control plane"` //nolint:staticcheck // kong takes one tag for each variable
}

// output is the flags of the commands that print resources.
type output struct {
	JSON bool `name:"json" help:"Print one JSON object per line, for scripts."`
}

// controlPlane is the services of the control plane. An error of a call is a *callError.
type controlPlane struct {
	teams chatsvcv1.TeamServiceClient
	keys  chatsvcv1.KeyServiceClient
	audit chatsvcv1.AuditServiceClient
}

// call runs do with a connection of its own.
func (c *control) call(do func(api controlPlane) error) error {
	conn, err := c.dial(grpc.WithUnaryInterceptor(c.explaining()))
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // it only fails when closed already
	return do(controlPlane{chatsvcv1.NewTeamServiceClient(conn), chatsvcv1.NewKeyServiceClient(conn), chatsvcv1.NewAuditServiceClient(conn)})
}

// explaining bounds every call and explains its error.
func (c *connection) explaining() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
		ctx, cancel := context.WithTimeout(ctx, callTime)
		defer cancel()
		err := invoke(ctx, method, request, reply, conn, options...)
		if err == nil {
			return nil
		}
		failure := c.explain(err, "")
		switch {
		case status.Code(err) == codes.DeadlineExceeded && failure.Reason == "":
			failure.Message = "no answer in time from " + c.Address
		case failure.Reason == "NOT_FOUND":
			failure.missing(request)
		}
		return failure
	}
}

// missing says of NOT_FOUND what the request has named, which the service does not: it answers alike for what is not there and
// for what is another team's.
func (e *callError) missing(request any) {
	name := subject(request)
	switch ids := short(name); strings.Count(ids, "/") {
	case 0:
		e.Message, e.advice = "there is no team "+ids+" that you may see", "make it: chatsvc teams create "+ids
	case 1:
		e.Message, e.advice = "there is no client "+ids+" that you may see", "make it: chatsvc clients create "+ids
	default:
		e.Message, e.advice = "there is no key "+ids+" that you may see", "those there are: chatsvc keys list "+path.Dir(ids)+" --all"
	}
}

// subject returns the name of what a request is about and has to be there.
func subject(request any) string {
	switch r := request.(type) {
	case interface{ GetParent() string }:
		return r.GetParent()
	case interface{ GetTeam() *chatsvcv1.Team }:
		return r.GetTeam().GetName()
	case interface{ GetClient() *chatsvcv1.Client }:
		return r.GetClient().GetName()
	case interface{ GetTeam() string }:
		return r.GetTeam()
	case interface{ GetName() string }:
		return r.GetName()
	default:
		return ""
	}
}

// listed returns what a list method gives, page by page.
func listed[T any](fetch func(pageToken string) (page []T, nextPageToken string, err error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for token := ""; ; {
			page, next, err := fetch(token)
			if err != nil {
				yield(*new(T), err)
				return
			}
			for _, item := range page {
				if !yield(item, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			token = next
		}
	}
}

// one returns what a call gave that gives one resource.
func one[M any](m M, err error) iter.Seq2[M, error] {
	return func(yield func(M, error) bool) { yield(m, err) }
}

// column is a column of a table of resources, for people.
type column[M any] struct {
	title string
	cell  func(M) string
}

// show prints resources as a table, or as lines of JSON.
func show[M proto.Message](std stdio, o output, columns []column[M], rows iter.Seq2[M, error]) error {
	if o.JSON {
		return writeLines(std.out, rows)
	}
	n, err := writeTable(std.out, columns, rows)
	if n == 0 && err == nil {
		fmt.Fprintln(std.err, "chatsvc: there is nothing to list")
	}
	return err
}

// showNext is show for what comes after something else: no rows are no table.
func showNext[M proto.Message](std stdio, o output, columns []column[M], rows iter.Seq2[M, error]) error {
	if o.JSON {
		return writeLines(std.out, rows)
	}
	_, err := writeTable(std.out, columns, func(yield func(M, error) bool) {
		first := true
		for m, err := range rows {
			if first && err == nil {
				_, err = io.WriteString(std.out, "\n")
			}
			first = false
			if !yield(m, err) {
				return
			}
		}
	})
	return err
}

// writeLines writes resources as lines of JSON.
func writeLines[M proto.Message](w io.Writer, rows iter.Seq2[M, error]) error {
	for m, err := range rows {
		if err == nil {
			err = writeJSON(w, m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeTable writes resources below their titles and returns how many there were. On an error it writes those before it.
func writeTable[M proto.Message](w io.Writer, columns []column[M], rows iter.Seq2[M, error]) (n int, err error) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for m, err := range rows {
		if err != nil {
			return n, errors.Join(table.Flush(), err)
		}
		if n%1000 == 0 { // the writer keeps all that it aligns
			if err := table.Flush(); err != nil {
				return n, err
			}
			writeRow(table, columns, func(c column[M]) string { return c.title })
		}
		n++
		writeRow(table, columns, func(c column[M]) string { return c.cell(m) })
	}
	return n, table.Flush()
}

// writeRow writes a row; a writer that fails says so when it is flushed.
func writeRow[M any](table *tabwriter.Writer, columns []column[M], text func(column[M]) string) {
	for i, c := range columns {
		cell := cmp.Or(oneLine(text(c)), "-")
		if i < len(columns)-1 {
			cell += "\t"
		}
		_, _ = io.WriteString(table, cell)
	}
	_, _ = io.WriteString(table, "\n")
}

// writeJSON writes a resource in one line.
func writeJSON(w io.Writer, m proto.Message) error {
	text, err := protojson.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	var line bytes.Buffer
	if err := json.Compact(&line, text); err != nil { // protojson strews in spaces
		return fmt.Errorf("encode the answer: %w", err)
	}
	line.WriteByte('\n')
	_, err = line.WriteTo(w)
	return err
}

// counted returns a number with what there is of it.
func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

// utc returns a time for people.
func utc(t *timestamppb.Timestamp) string {
	if !t.IsValid() { // nor is one that is not set
		return ""
	}
	return t.AsTime().UTC().Format(time.RFC3339)
}
