package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clockTick is the unit of CPU time in /proc: USER_HZ is 100 on every platform that Go has Linux for.
const clockTick = 10 * time.Millisecond

// cpuTime returns the CPU time that a process has used in user and system mode, in steps of clockTick. It counts all
// its threads, those that have ended too.
func cpuTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) //nolint:gosec // A number makes no other path.
	if err != nil {
		return 0, fmt.Errorf("reading CPU time: %w", err)
	}
	own, _, err := parseCPUTime(string(stat))
	return own, err
}

// familyCPUTime returns the CPU time of a process, the first, and of its children, the others, with that of the children
// that have ended. Of one that ends just now it may have nothing, if the first does not know it yet.
func familyCPUTime(pids []int) (total time.Duration, err error) {
	for i, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if i > 0 && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("reading CPU time: %w", err)
		}
		own, reaped, err := parseCPUTime(string(stat))
		if err != nil {
			return 0, err
		}
		total += own
		if i == 0 {
			total += reaped
		}
	}
	return total, nil
}

// parseCPUTime reads from the content of /proc/PID/stat the CPU time of the process, and that of its children that have
// ended.
func parseCPUTime(stat string) (own, reaped time.Duration, err error) {
	// The name of the program, in parentheses, may itself have spaces and parentheses.
	end := strings.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, 0, errors.New("reading CPU time: no program name in /proc/PID/stat")
	}
	const user = 14 - 3 // proc_pid_stat(5) counts from 1; the first after the name is number 3
	fields := strings.Fields(stat[end+1:])
	if len(fields) < user+4 {
		return 0, 0, fmt.Errorf("reading CPU time: %d fields after the name in /proc/PID/stat", len(fields))
	}
	var ticks [4]int64 // user and system; user and system of children
	for i, field := range fields[user : user+4] {
		if ticks[i], err = strconv.ParseInt(field, 10, 48); err != nil {
			return 0, 0, fmt.Errorf("reading CPU time: %w", err)
		}
	}
	return time.Duration(ticks[0]+ticks[1]) * clockTick, time.Duration(ticks[2]+ticks[3]) * clockTick, nil
}

// residentBytes returns the memory of a process that is in RAM.
func residentBytes(pid int) (int64, error) {
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, fmt.Errorf("reading resident memory: %w", err)
	}
	pages, err := parseResidentPages(string(statm))
	return pages * int64(os.Getpagesize()), err
}

// parseResidentPages reads the number of resident pages from the content of /proc/PID/statm.
func parseResidentPages(statm string) (int64, error) {
	fields := strings.Fields(statm)
	if len(fields) < 2 {
		return 0, errors.New("reading resident memory: too few fields in /proc/PID/statm")
	}
	pages, err := strconv.ParseInt(fields[1], 10, 48)
	if err != nil {
		return 0, fmt.Errorf("reading resident memory: %w", err)
	}
	return pages, nil
}
