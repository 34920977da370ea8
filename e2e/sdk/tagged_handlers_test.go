package sdk

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

// handlerPrograms are programs with a handler that is written by the test.
var handlerPrograms = map[string]string{
	".py": `import asyncio, functools, poolinit
class Called:
    async def __call__(self, body, meta):
        return meta.id
async def pieces(body):
    yield body
pool = poolinit.Pool()
pool.on_worker_start(lambda id: print("up worker=5 of=8 generation=2"))
pool.on_worker_stop(lambda id: print("down worker=5"))
pool.on_message(HANDLER)
pool.start()
`,
	".js": `const { Pool } = require('./poolinit.js');
const pool = new Pool();
pool.on('workerStart', () => console.log('up worker=5 of=8 generation=2'));
pool.on('workerStop', () => console.log('down worker=5'));
pool.on('message', HANDLER);
pool.start();
`,
	".php": `<?php
require __DIR__ . '/Pool.php';
use Poolinit\{Meta, Pool};
final class Called
{
    public function __invoke(Pool $pool, string $body, Meta $meta): string
    {
        return $meta->id;
    }
}
$pool = new Pool();
$pool->on('workerStart', function (): void { echo "up worker=5 of=8 generation=2\n"; });
$pool->on('workerStop', function (): void { echo "down worker=5\n"; });
$pool->on('message', HANDLER);
$pool->start();
`}

// A handler gets the meta if it asks for it by its parameters.
func TestSDKTaggedHandlers(t *testing.T) {
	eachSDK(t, []scriptSDK{pythonSDK, nodeSDK, phpSDK}, func(t *testing.T, s scriptSDK) {
		for handler, want := range map[string]map[string]string{
			".py": {
				"lambda body: body":                                            "x",
				"lambda body, meta: meta.id":                                   "7",
				"lambda body, other: other.id":                                 "7",
				"lambda body, n=5: str(n)":                                     "5",
				"lambda body, meta=None: meta.id":                              "7",
				"lambda body, *, meta: meta.id":                                "7",
				"lambda body, n=5, meta=None: str(n)":                          "5",
				"lambda body, *rest: str(len(rest))":                           "0",
				"lambda *all: str(len(all))":                                   "1",
				"lambda body, **named: str(len(named))":                        "0",
				"bytes.upper":                                                  "X",
				"functools.partial(lambda db, body, meta: db + meta.id, 'db')": "db7",
				"Called()":                      "7",
				"lambda body: asyncio.sleep(0)": "!error: TypeError: a reply is bytes or str, not coroutine",
			},
			".js": {
				"(body) => body":                           "x",
				"(body, meta) => meta.id":                  "7",
				"async (body, meta) => meta.id":            "7",
				"(body, n = 5) => String(n)":               "5",
				"(...all) => String(all.length)":           "1",
				"function (body, meta) { return meta.id }": "7",
			},
			".php": {
				"fn ($pool, $body) => $body":                         "x",
				"fn ($pool, $body, $meta) => $meta->id":              "7",
				"fn ($pool, $body, ?Meta $meta = null) => $meta->id": "7",
				"fn ($pool, $body, $n = 5) => $n":                    "5",
				"fn ($pool, $body, ...$rest) => count($rest)":        "0",
				"fn () => func_num_args()":                           "2",
				"new Called()":                                       "7",
			},
		}[s.ext] {
			e := s.workerAt(t, s.handlerFile(t, handler), "POOLINIT_DELIVER=tagged")
			w := taggedEnd{e, bufio.NewReader(e.Conn)}
			w.write(tagged(1, `{"id":"7"}`, "x"))
			w.wantAnswers(map[uint64]string{1: want})
			w.end()
			w.wantEnd(0, "")
		}
	})
}

func (s scriptSDK) handlerFile(t testing.TB, handler string) (name string) {
	t.Helper()
	name = filepath.Join(s.dir(t), "handler"+s.ext)
	if err := os.WriteFile(name, []byte(strings.Replace(handlerPrograms[s.ext], "HANDLER", handler, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// A handler that cannot be called is an error at once, not at each message.
func TestSDKTaggedHandlerMistakes(t *testing.T) {
	eachSDK(t, []scriptSDK{pythonSDK, nodeSDK, phpSDK}, func(t *testing.T, s scriptSDK) {
		for handler, says := range map[string]map[string]string{
			".py": {
				"lambda: 1":             "TypeError: on_message: a handler takes the body",
				"lambda a, b, c: 1":     "TypeError: on_message: a handler takes the body",
				"lambda body, *, db: 1": "TypeError: on_message: a handler takes the body",
				"pieces":                "TypeError: on_message: a handler is no generator",
				"None":                  "TypeError: on_message: a handler is a function",
			},
			".js":  {"7": "TypeError: on('message'): a handler is a function"},
			".php": {"fn ($pool, $body, $meta, $db) => 1": "a message handler gets the pool, the message, and its meta"},
		}[s.ext] {
			p, code := harness.Run(t, harness.Program{Args: []string{s.needs, s.handlerFile(t, handler)}, Env: []string{"POOLINIT_WORKER_ID=0"}})
			if said := p.Stderr.String() + p.Stdout.String(); code == 0 || !strings.Contains(said, says) {
				t.Errorf("%s: exit code %d\n%s", handler, code, said)
			}
		}
	})
}
