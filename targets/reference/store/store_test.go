package store

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// TestMain serves two masters: re-executed with STORE_TEST_DATABASE it is the
// victim of TestCommittedWritesSurviveSIGKILL.
func TestMain(m *testing.M) {
	if path := os.Getenv("STORE_TEST_DATABASE"); path != "" {
		fmt.Fprintln(os.Stderr, commitUntilKilled(path))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// commitUntilKilled commits pairs of rows 1, 1, 2, 2, … and prints each number
// once it is committed.
func commitUntilKilled(path string) error {
	db, err := Open(context.Background(), path)
	if err != nil {
		return err
	}
	if err := db.Write(context.Background(), func(tx *sql.Tx) error {
		_, err := tx.Exec(`CREATE TABLE IF NOT EXISTS numbers (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)`)
		return err
	}); err != nil {
		return err
	}
	insert, err := db.Prepare(context.Background(), `INSERT INTO numbers (n) VALUES (?)`)
	if err != nil {
		return err
	}
	for n := 1; ; n++ {
		if err := db.Write(context.Background(), func(tx *sql.Tx) error {
			for range 2 {
				if _, err := tx.Stmt(insert).Exec(n); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

func TestCommittedWritesSurviveSIGKILL(t *testing.T) {
	for _, commits := range []int{1, 37, 700} { // 700: beyond the first checkpoint at 1,000 pages
		t.Run(strconv.Itoa(commits), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.db")
			acknowledged := killAfter(t, path, commits)

			// The first to look after the kill only reads.
			look, err := OpenReadOnly(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			defer look.Close()
			var rows, last, halves int
			if err := look.QueryRow(`SELECT count(*), max(n), (SELECT count(*) FROM (SELECT n FROM numbers GROUP BY n HAVING count(*) <> 2)) FROM numbers`).
				Scan(&rows, &last, &halves); err != nil {
				t.Fatal(err)
			}
			if last < acknowledged {
				t.Errorf("%d was acknowledged before the kill, but the last number found is %d", acknowledged, last)
			}
			if rows != 2*last || halves != 0 {
				t.Errorf("%d rows for %d commits of two; %d commits are there by half", rows, last, halves)
			}
			var verdict string
			if err := look.QueryRow(`PRAGMA integrity_check`).Scan(&verdict); err != nil || verdict != "ok" {
				t.Errorf("integrity_check says %q, %v", verdict, err)
			}

			// And life goes on.
			db := open(t, path)
			if err := db.Write(t.Context(), insert(last+1)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// killAfter runs a writer in a process of its own, kills it once it has
// acknowledged the given number of commits, and returns the last one that it
// acknowledged before it died.
func killAfter(t *testing.T, path string, commits int) int {
	t.Helper()
	victim := exec.Command(os.Args[0])
	victim.Env = append(os.Environ(), "STORE_TEST_DATABASE="+path)
	victim.Stderr = os.Stderr
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	last := 0
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			break // the pipe is dry: what is in line was cut off
		}
		if last, err = strconv.Atoi(strings.TrimSpace(line)); err != nil {
			t.Fatal(err)
		}
		if last == commits {
			if err := victim.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	var exit *exec.ExitError
	if err := victim.Wait(); !errors.As(err, &exit) || exit.ExitCode() != -1 {
		t.Fatalf("the writer was to die of SIGKILL after %d commits, but: %v (last acknowledged %d)", commits, err, last)
	}
	return last
}

func open(t testing.TB, path string) *DB {
	t.Helper()
	db, err := Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// fresh opens a new database with the table numbers.
func fresh(t testing.TB) *DB {
	t.Helper()
	db := open(t, filepath.Join(t.TempDir(), "odd name ?#%20.db"))
	if err := db.Write(context.Background(), func(tx *sql.Tx) error {
		_, err := tx.Exec(`CREATE TABLE numbers (id INTEGER PRIMARY KEY, n INTEGER NOT NULL CHECK (n > 0))`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return db
}

func insert(n int) func(*sql.Tx) error {
	return func(tx *sql.Tx) error {
		_, err := tx.Exec(`INSERT INTO numbers (n) VALUES (?)`, n)
		return err
	}
}

func count(t testing.TB, db *DB) (n int) {
	t.Helper()
	if err := db.Read().QueryRow(`SELECT count(*) FROM numbers`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestWriteRollsBack(t *testing.T) {
	db := fresh(t)

	sentinel := errors.New("changed my mind")
	if err := db.Write(t.Context(), func(tx *sql.Tx) error {
		if err := insert(1)(tx); err != nil {
			return err
		}
		return sentinel
	}); err != sentinel {
		t.Errorf("Write returned %v, want the error of the change as it is", err)
	}

	if err := db.Write(t.Context(), insert(-1)); err == nil || !strings.Contains(err.Error(), "CHECK constraint failed") {
		t.Errorf("a violated constraint gave %v", err)
	}

	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic of the change was swallowed")
			}
		}()
		_ = db.Write(t.Context(), func(tx *sql.Tx) error {
			_ = insert(1)(tx)
			panic("in the middle")
		})
	}()

	if n := count(t, db); n != 0 {
		t.Errorf("%d rows remain of transactions that were not committed", n)
	}
	if err := db.Write(t.Context(), insert(1)); err != nil {
		t.Errorf("the writer is unusable after a panic: %v", err)
	}
}

// The context bounds the wait for the writer, and nothing else: whoever gives
// up while waiting has changed nothing, whoever has begun is seen through.
func TestWriteAndItsContext(t *testing.T) {
	db := fresh(t)

	begun, finish := make(chan struct{}), make(chan struct{})
	ctx, giveUp := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		first <- db.Write(ctx, func(tx *sql.Tx) error {
			close(begun)
			<-finish
			return insert(1)(tx)
		})
	}()
	<-begun

	waiting, stop := context.WithCancel(t.Context())
	second := make(chan error, 1)
	go func() { second <- db.Write(waiting, insert(2)) }()
	stop()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Errorf("the second writer waited although its context had ended: %v", err)
	}

	giveUp()
	close(finish)
	if err := <-first; err != nil {
		t.Errorf("the first writer had begun and must be seen through: %v", err)
	}
	if n := count(t, db); n != 1 {
		t.Errorf("%d rows, want the one of the first writer", n)
	}
}

func TestWritersAndReadersTogether(t *testing.T) {
	db := fresh(t)
	const writers, each = 8, 50

	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for n := range each {
				if err := db.Write(t.Context(), func(tx *sql.Tx) error {
					return errors.Join(insert(n+1)(tx), insert(n+1)(tx))
				}); err != nil {
					t.Error(err)
				}
			}
		})
		all.Go(func() {
			for range each {
				if n := count(t, db); n%2 != 0 {
					t.Errorf("a reader saw %d rows: half a transaction", n)
				}
			}
		})
	}
	all.Wait()
	if n := count(t, db); n != 2*writers*each {
		t.Errorf("%d rows, want %d", n, 2*writers*each)
	}
}

func TestReadersCannotWrite(t *testing.T) {
	db := fresh(t)
	if _, err := db.Read().Exec(`INSERT INTO numbers (n) VALUES (1)`); err == nil {
		t.Error("Read() let a write pass")
	}
	look, err := OpenReadOnly(t.Context(), db.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer look.Close()
	if _, err := look.Exec(`INSERT INTO numbers (n) VALUES (1)`); err == nil {
		t.Error("OpenReadOnly let a write pass")
	}
}

func TestOpenSaysWhichFile(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "no-such-folder", "x.db")
	if _, err := Open(t.Context(), missing); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("Open in a missing folder gave %v", err)
	}
	if _, err := OpenReadOnly(t.Context(), missing); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("OpenReadOnly of a missing file gave %v", err)
	}

	garbage := filepath.Join(t.TempDir(), "garbage.db")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("this is no database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), garbage); err == nil || !strings.Contains(err.Error(), garbage) {
		t.Errorf("Open of garbage gave %v", err)
	}
}

func TestClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	db, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := db.Write(t.Context(), insert(1)); err == nil {
		t.Error("Write worked on a closed database")
	}
	for _, rest := range []string{"-wal", "-shm"} {
		if _, err := os.Stat(path + rest); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Close left %s behind (%v)", path+rest, err)
		}
	}
}

// BenchmarkCommit measures one transaction of one row: what a step of a saga
// costs at least.
func BenchmarkCommit(b *testing.B) {
	db := fresh(b)
	prepared, err := db.Prepare(b.Context(), `INSERT INTO numbers (n) VALUES (?)`)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := db.Write(b.Context(), func(tx *sql.Tx) error {
			_, err := tx.Stmt(prepared).Exec(1)
			return err
		}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
}

// BenchmarkCommitUnprepared shows what preparing saves.
func BenchmarkCommitUnprepared(b *testing.B) {
	db := fresh(b)
	for b.Loop() {
		if err := db.Write(b.Context(), insert(1)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
}

func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	for i := 0; b.Loop(); i++ {
		db, err := Open(b.Context(), filepath.Join(dir, strconv.Itoa(i)+".db"))
		if err != nil {
			b.Fatal(err)
		}
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
