package sqlstore

import (
	"context"
)

// PostgreSQL gives a value the type of the column that it is inserted into, but not that of one that it is compared with.
var (
	deleteClaims = &set{
		`DELETE FROM claims WHERE (team, request_id, turn) IN (VALUES `, `)`, 3, []string{"text", "bytea", "uuid"},
	}

	endRuns = &set{`DELETE FROM running WHERE turn IN (`, `)`, 1, nil}

	// All that stands on a branch from a line's head on is the input of the turn that runs there.
	moveMessages = &set{`UPDATE messages SET branch = turn FROM (VALUES `, `) AS v
WHERE messages.branch = v.column1 AND messages.position >= v.column2`, 2, []string{"uuid", "bigint"}}

	insertConversations = &set{
		`INSERT INTO conversations (id, team, spec_version, create_time, update_time, expire_time, spec) VALUES `, ``, 7, nil,
	}

	insertBranches = &set{`INSERT INTO branches
(id, conversation, parent, fork_position, head_turn, head_position, head_tokens, version, update_time, tip)
VALUES `, ``, 10, nil}

	startTurns = &set{
		`UPDATE turns SET parent = v.column3, branch = v.column4, position = v.column5, inputs = v.column6,
	state = v.column7, result = v.column8
FROM (VALUES `, `) AS v WHERE turns.team = v.column1 AND turns.id = v.column2`, 8,
		[]string{"text", "uuid", "uuid", "uuid", "bigint", "bigint", "smallint", "bytea"},
	}

	recordTurns = &set{`UPDATE turns SET result = v.column3
FROM (VALUES `, `) AS v WHERE turns.team = v.column1 AND turns.id = v.column2`, 3, []string{"text", "uuid", "bytea"}}

	endTurns = &set{
		`UPDATE turns SET branch = v.column3, outputs = v.column4, state = v.column5, end_time = v.column6,
	end_tokens = v.column7, result = v.column8
FROM (VALUES `, `) AS v WHERE turns.team = v.column1 AND turns.id = v.column2`, 8,
		[]string{"text", "uuid", "uuid", "bigint", "smallint", "bigint", "bigint", "bytea"},
	}

	insertTurns = &set{`INSERT INTO turns
(team, id, client, conversation, parent, branch, position, inputs, outputs, state, on_disconnect, trace_id, create_time,
request_id, labels, result) VALUES `, ``, 16, nil}

	insertMessages = &set{
		`INSERT INTO messages (branch, position, id, turn, role, tokens, tokens_before, content) VALUES `, ``, 8, nil,
	}

	startRuns = &set{
		`UPDATE running SET queue = NULL, ticket = 0, line = v.column2, branch = v.column3, start = v.column4,
	position = v.column5, tokens = v.column6, deadline = v.column7
FROM (VALUES `, `) AS v WHERE running.turn = v.column1`, 7,
		[]string{"uuid", "uuid", "uuid", "bigint", "bigint", "bigint", "bigint"},
	}

	cancelRuns = &set{`UPDATE running SET cancel = 1 WHERE turn IN (`, `)`, 1, nil}

	insertRuns = &set{`INSERT INTO running (turn, team, conversation, line, queue, ticket, owner, epoch, branch, start, position,
tokens, counted, cancel, takeovers, deadline, overrides) VALUES `, ``, 17, nil}

	insertCallers  = &set{`INSERT INTO callers (turn, replica) VALUES `, ``, 2, nil}
	deleteCallers  = &set{`DELETE FROM callers WHERE (turn, replica) IN (VALUES `, `)`, 2, []string{"uuid", "uuid"}}
	dismissCallers = &set{`DELETE FROM callers WHERE turn IN (`, `)`, 1, nil}

	deleteEvents = &set{`DELETE FROM events WHERE (turn, first) IN (VALUES `, `)`, 2, []string{"uuid", "bigint"}}

	// A batch that is there already was written by a transaction of unknown outcome, perhaps with fewer events.
	insertEvents = &set{
		`INSERT INTO events (turn, first, last, data) VALUES `,
		` ON CONFLICT (turn, first) DO UPDATE SET last = excluded.last, data = excluded.data`, 4, nil,
	}

	updateSpecs = &set{`UPDATE conversations
SET spec_version = v.column2, update_time = v.column3, expire_time = v.column4, spec = v.column5
FROM (VALUES `, `) AS v WHERE conversations.id = v.column1`, 5, []string{"uuid", "bigint", "bigint", "bigint", "bytea"}}

	moveHeads = &set{
		`UPDATE branches SET head_turn = v.column2, head_position = v.column3, head_tokens = v.column4,
	version = v.column5, update_time = v.column6, tip = v.column7
FROM (VALUES `, `) AS v WHERE branches.id = v.column1`, 7,
		[]string{"uuid", "uuid", "bigint", "bigint", "bigint", "bigint", "uuid"},
	}

	deleteConversations = &set{`DELETE FROM conversations WHERE id IN (`, `)`, 1, nil}
	insertDeletions     = &set{`INSERT INTO deletions (conversation, create_time) VALUES `, ``, 2, nil}
	deleteTurns         = &set{`DELETE FROM turns WHERE (team, id) IN (VALUES `, `)`, 2, []string{"text", "uuid"}}
	deleteMessages      = &set{`DELETE FROM messages WHERE branch IN (`, `)`, 1, nil}
	deleteLogs          = &set{`DELETE FROM events WHERE turn IN (`, `)`, 1, nil}
)

// write writes what the ops decided. What an op ends makes room for what a later one begins, so ends come first; what is
// written and deleted by the same group is deleted last; and the heads, which the turns of a conversation contend for,
// come as late as they can.
//
// The branches of a deleted conversation stay: a fork may share them. They go with its other rows.
func (g *group) write(ctx context.Context, w *setWriter) error {
	g.collect()
	for _, s := range []*set{
		deleteClaims, endRuns, deleteCallers, dismissCallers, moveMessages, insertConversations, startTurns, recordTurns, endTurns,
		insertTurns, insertMessages, startRuns, cancelRuns, insertRuns, insertCallers, deleteEvents, insertEvents, updateSpecs,
		insertBranches, moveHeads, deleteConversations, insertDeletions, deleteTurns, deleteMessages, deleteLogs,
		putTeams, putClients, putKeys, insertEntries, moveAuditHead,
	} {
		w.doSet(s, g.rows[s])
	}
	for _, f := range g.then {
		if err := f(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// collect makes rows of what ops have changed, perhaps several times, in the lines and runs that g knows.
func (g *group) collect() {
	for _, id := range g.changedLines {
		l := g.lines[id]
		if l == nil {
			continue // and then deleted
		}
		if l.newSpec != nil {
			g.add(updateSpecs, idArg(id), l.spec, l.specTime, l.expireTime, l.newSpec)
		}
		if l.moved {
			g.add(moveHeads, idArg(id), idArg(l.head), l.position, l.tokens, l.version, l.headTime, idArg(l.tip))
		}
	}
	for _, id := range g.changedRuns {
		r := g.runs[id]
		if r == nil {
			continue // and then ended
		}
		if r.cancel && !r.asked {
			g.add(cancelRuns, idArg(id))
		}
		switch {
		case r.callersHere && !r.hadCallersHere:
			g.add(insertCallers, idArg(id), idArg(g.owner.id))
		case r.hadCallersHere && !r.callersHere:
			g.add(deleteCallers, idArg(id), idArg(g.owner.id))
		}
	}
	g.collectTenancy()
}
