package sqlstore

import (
	"context"
	"fmt"
)

var (
	endRuns = &set{`DELETE FROM running WHERE turn IN (`, `)`, 1}

	// All that stands on a main line from a head on is the input of the turn that runs there.
	moveMessages = &set{`UPDATE messages SET branch = turn FROM (VALUES `, `) AS v
WHERE messages.branch = v.column1 AND messages.position >= v.column2`, 2}

	insertConversations = &set{`INSERT INTO conversations (id, team, spec_version, create_time, update_time, spec) VALUES `, ``, 6}

	insertBranches = &set{`INSERT INTO branches
(id, conversation, parent, fork_position, head_turn, head_position, head_tokens, version, update_time) VALUES `, ``, 9}

	endTurns = &set{`UPDATE turns SET branch = v.column3, outputs = v.column4, state = v.column5, end_time = v.column6, result = v.column7
FROM (VALUES `, `) AS v WHERE turns.team = v.column1 AND turns.id = v.column2`, 7}

	insertTurns = &set{`INSERT INTO turns
(team, id, client, conversation, parent, branch, position, inputs, outputs, state, on_disconnect, trace_id, create_time,
request_id, labels, result) VALUES `, ``, 16}

	insertMessages = &set{`INSERT INTO messages (branch, position, id, turn, role, tokens, tokens_before, content) VALUES `, ``, 8}

	insertRuns = &set{`INSERT INTO running (turn, line, team, owner, epoch, start, position, tokens) VALUES `, ``, 8}

	updateSpecs = &set{`UPDATE conversations SET spec_version = v.column2, update_time = v.column3, spec = v.column4
FROM (VALUES `, `) AS v WHERE conversations.id = v.column1`, 4}

	moveHeads = &set{`UPDATE branches
SET head_turn = v.column2, head_position = v.column3, head_tokens = v.column4, version = v.column5, update_time = v.column6
FROM (VALUES `, `) AS v WHERE branches.id = v.column1`, 6}

	deleteConversations = &set{`DELETE FROM conversations WHERE id IN (`, `)`, 1}
	deleteBranches      = &set{`DELETE FROM branches WHERE id IN (`, `)`, 1}
	insertDeletions     = &set{`INSERT INTO deletions (conversation, create_time) VALUES `, ``, 2}
	deleteTurns         = &set{`DELETE FROM turns WHERE (team, id) IN (VALUES `, `)`, 2}
	deleteMessages      = &set{`DELETE FROM messages WHERE branch IN (`, `)`, 1}
)

// write writes what the ops decided. What an op ends makes room for what a later one begins, so ends come first; what is
// written and deleted by the same group is deleted last; and the heads, which the turns of a conversation contend for,
// come as late as they can.
func (g *group) write(ctx context.Context, w *writer) error {
	for _, id := range g.changed {
		l := g.lines[id]
		if l == nil {
			continue // and then deleted
		}
		if l.newSpec != nil {
			g.newSpecs = append(g.newSpecs, idArg(id), l.spec, l.specTime, l.newSpec)
		}
		if l.moved {
			g.heads = append(g.heads, idArg(id), idArg(l.head), l.position, l.tokens, l.version, l.headTime)
		}
	}
	for _, step := range []struct {
		set  *set
		rows []any
	}{
		{endRuns, g.endedRuns},
		{moveMessages, g.movedMessages},
		{insertConversations, g.newConversations},
		{endTurns, g.endedTurns},
		{insertTurns, g.newTurns},
		{insertMessages, g.newMessages},
		{insertRuns, g.newRuns},
		{updateSpecs, g.newSpecs},
		{insertBranches, g.newBranches},
		{moveHeads, g.heads},
		{deleteConversations, g.goneConversations},
		{deleteBranches, g.goneConversations},
		{insertDeletions, g.deletions},
		{deleteTurns, g.goneTurns},
		{deleteMessages, g.goneMessages},
	} {
		if err := w.execSet(ctx, step.set, step.rows); err != nil {
			return fmt.Errorf("%.40s…: %w", step.set.head, err)
		}
	}
	for _, f := range g.then {
		if err := f(ctx, w); err != nil {
			return err
		}
	}
	return nil
}
