"""`workflows.chat`: a conversation in lines, in a terminal, over a file of prompts, and behind a server."""

import contextlib
import dataclasses
import io
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.data.sources.conversations import messages as conversation_of
from pipelines.errors import ConfigError, DataError
from pipelines.train.runtimes import RUNTIMES, serving
from pipelines.train.runtimes.batch import answer_all, read_prompts
from pipelines.train.runtimes.contract import LoadSettings, Sampling, Server
from pipelines.train.runtimes.conversation import answer, fitted
from pipelines.train.runtimes.terminal import Chat, piped_lines
from tests.commands import run_here
from tests.delivered import deliver
from tests.ports import free_port
from tests.waits import PATIENCE_SECONDS, wait_until

# an untrained model says one id over and over where nothing forbids it
GREEDY = Sampling(temperature=0.0, repetition_penalty=2.0, max_new_tokens=6)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("talking")
    deliver(path)
    return path


@pytest.fixture(scope="module")
def loaded(place):
    return RUNTIMES["transformers"].load(place / "folder", LoadSettings(threads=1))


def talk(loaded, lines, sampling=GREEDY, system=None, interactive=True):
    """What a chat over some lines says: answers, notes."""
    out, notes = io.StringIO(), io.StringIO()
    chat = Chat(loaded, system, sampling, interactive, out, notes)
    chat.loop(piped_lines(io.StringIO("".join(f"{line}\n" for line in lines))))
    return out.getvalue(), notes.getvalue()


def said(loaded, messages, sampling=GREEDY):
    ids, _ = fitted(loaded, messages, sampling)
    return answer(loaded, ids, sampling, lambda _: None).text


def visible(text):
    """The text as a terminal may show it: without what would steer it."""
    return "".join("\ufffd" if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 else c for c in text)


# ── Lines ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_answers_know_what_was_said_before(loaded):
    first = [{"role": "system", "content": "Kurz."}, {"role": "user", "content": "1 + 1?"}]
    one = said(loaded, first)
    two = said(loaded, [*first, {"role": "assistant", "content": one}, {"role": "user", "content": "话说"}])
    out, notes = talk(loaded, ["1 + 1?", "话说"], system="Kurz.")
    assert out == visible(f"{one}\n{two}\n")
    assert "of them new at" in notes
    assert "answer 6 tokens at" in notes
    assert "cut off" in notes
    # without the first exchange the second answer is another one
    assert talk(loaded, ["话说"], system="Kurz.")[0] != visible(f"{two}\n")


def test_undo_clear_and_system(loaded):
    once = talk(loaded, ["话说"])[0]
    for command in ("/undo", "/clear"):
        assert talk(loaded, ["1 + 1?", command, "话说"])[0].endswith(once)
    assert talk(loaded, ["/system Kurz.", "话说"])[0] == talk(loaded, ["话说"], system="Kurz.")[0] != once
    assert talk(loaded, ["/system -", "话说"], system="Kurz.")[0] == once


def test_retry_draws_anew_and_keeps_one_answer(loaded, tmp_path):
    drawn = Sampling(temperature=2.0, top_p=1.0, max_new_tokens=6)
    out, _ = talk(loaded, ["1 + 1?", "/retry", f"/save {tmp_path / 'a.jsonl'}"], drawn)
    saved = json.loads((tmp_path / "a.jsonl").read_text("utf-8"))["messages"]
    assert len(saved) == 2
    assert out.endswith(visible(saved[1]["content"]) + "\n")
    assert out != 2 * (visible(saved[1]["content"]) + "\n")


def test_what_is_saved_is_a_conversation_to_train_on_and_to_go_on_with(loaded, tmp_path):
    path = tmp_path / "a.jsonl"
    lines = ["1 + 1?", "话说", f"/save {path}"]
    talk(loaded, lines, system="Kurz.")
    record = json.loads(path.read_text("utf-8"))
    assert conversation_of(record, "")[1]["messages"] == record["messages"]
    assert [message["role"] for message in record["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    whole = talk(loaded, [*lines[:2], "好"], system="Kurz.")[0]
    gone_on = talk(loaded, [f"/load {path}", "好"])[0]
    assert whole.endswith(gone_on)
    assert "exists: name another file" in talk(loaded, lines)[1]
    (tmp_path / "b.jsonl").write_text('{"messages": [{"role": "user", "content": "?"}]}\n', encoding="utf-8")
    assert "records.ends_without_answer" in talk(loaded, [f"/load {tmp_path / 'b.jsonl'}"])[1]


def test_sampling_is_changed_and_refused_by_key(loaded):
    _, notes = talk(loaded, ["/set sampling.temperature=0.5 top_k=3", "/set heat=1", "/set top_p=7"])
    assert "temperature=0.5" in notes
    assert "unknown key heat" in notes
    assert "top_p is 7; expected" in notes


def test_a_mistake_does_not_end_a_chat_and_ends_a_pipe(loaded):
    out, notes = talk(loaded, ["/retry", "/fly", "x" * 300, "1 + 1?"])
    assert "/retry needs a question" in notes
    assert "/fly is no command; there are /help, /retry" in notes
    assert "ask something shorter" in notes
    assert out.count("\n") == 1
    with pytest.raises(ConfigError, match="/fly is no command"):
        talk(loaded, ["/fly"], interactive=False)


def test_the_oldest_exchanges_are_left_out_and_that_is_said(loaded):
    lines = ["one and two and three"] * 8
    _, notes = talk(loaded, lines)
    assert "the oldest exchange is left out: the model has 96 positions" in notes
    messages = [{"role": "system", "content": "Kurz."}]
    for number in range(20):
        messages += [{"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": f"{number}!"}]
    ids, left_out = fitted(loaded, [*messages, {"role": "user", "content": "20?"}], GREEDY)
    assert len(ids) + GREEDY.max_new_tokens <= loaded.context
    assert 0 < left_out < 20
    text = loaded.decode(ids).decode()
    assert text.startswith(f"Kurz.\n{left_out}?{left_out}!")


def test_a_character_is_shown_once_it_is_whole(loaded):
    class Spelling:
        """A `Loaded` that says some bytes."""

        def __init__(self, pieces):
            self.pieces, self.context, self.prompt_read, self.draft = pieces, 96, 1, None

        def stream(self, ids, sampling):
            yield from range(len(self.pieces))

        def decode(self, ids):
            return b"".join(self.pieces[i] for i in ids)

    pieces, shown = [b"\xe4", b"\xbd\xa0", b"\xe5\xa5", b"\xbd!", b"\xf0\x9f"], []
    whole = answer(Spelling(pieces), [1], Sampling(), shown.append)
    assert shown == ["你", "好!", "\ufffd"]
    assert (whole.text, whole.tokens, whole.ended) == ("你好!\ufffd", 5, True)


# ── A file of prompts ─────────────────────────────────────────────────────────────────────────────────────────────────


def prompts_file(path, count=5):
    records = [{"prompt": f"{number} + 1?", "id": number} for number in range(count)]
    records[1] = {"messages": [{"role": "user", "content": "a\u2028b"}, {"role": "assistant", "content": "c"},
                               {"role": "user", "content": "话说"}]}  # fmt: skip
    path.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n\n", encoding="utf-8")
    return path


def test_a_batch_that_was_killed_goes_on_as_if_it_had_not_been(loaded, tmp_path):
    drawn = Sampling(temperature=1.5, max_new_tokens=6)
    prompts = read_prompts(prompts_file(tmp_path / "p.jsonl"), "Kurz.")
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    counts = answer_all(loaded, prompts, whole, drawn, "m")
    assert (counts["answered"], counts["kept"], counts["cut"]) == (5, 0, 5)
    lines = whole.read_bytes().splitlines(keepends=True)
    cut.write_bytes(b"".join(lines[:2]) + lines[2][:20])
    counts = answer_all(loaded, prompts, cut, drawn, "m")
    assert (counts["answered"], counts["kept"], counts["cut"], counts["tokens"]) == (5, 2, 5, 30)
    assert cut.read_bytes() == whole.read_bytes()
    records = [json.loads(line) for line in lines]
    assert [record["answer"]["line"] for record in records] == [1, 2, 3, 4, 5]
    assert records[0]["id"] == 0
    assert all(conversation_of(record, "")[1]["messages"] == record["messages"] for record in records)
    assert records[0]["messages"][0] == {"role": "system", "content": "Kurz."}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda prompts, sampling: (prompts, dataclasses.replace(sampling, seed=1)), "it was made with m"),
        (lambda prompts, sampling: (prompts[1:], sampling), "line 1 answers another prompt"),
    ],
)
def test_answers_of_other_settings_or_prompts_are_not_gone_on_with(loaded, tmp_path, change, said):
    prompts, answers = read_prompts(prompts_file(tmp_path / "p.jsonl"), None), tmp_path / "a.jsonl"
    answer_all(loaded, prompts[:1], answers, GREEDY, "m")
    before = answers.read_bytes()
    with pytest.raises(ConfigError, match=said):
        answer_all(loaded, *(lambda p, s: (p, answers, s, "m"))(*change(prompts, GREEDY)))
    assert answers.read_bytes() == before


def test_bad_lines_are_refused_by_number_before_any_is_answered(tmp_path):
    path = tmp_path / "p.jsonl"
    lines = [
        '{"prompt": "good"}', "{", "[]", '{"prompt": 3}', "{}", '{"messages": []}',
        '{"messages": [{"role": "assistant", "content": "?"}]}', '{"prompt": "a", "messages": []}',
    ]  # fmt: skip
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError) as told:
        read_prompts(path, None)
    message = str(told.value)
    assert "7 of 8 lines" in message
    assert "line 2: " in message
    assert "line 3: holds list" in message
    assert "and 2 more" in message
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no prompt"):
        read_prompts(tmp_path / "empty.jsonl", None)


# ── The command ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model=export/e"], "there is export/{d}"),
        (["model=folders"], "there are: export/d, pretrain/d, sft/d, dpo/d"),
        (["model=tokens/t"], "no model of"),
        (["model=there-is-no.gguf"], "there is no such file"),
        (["model=PLACE/store"], "holds no model that a runtime reads"),
        (["model=PLACE/folder", "program=llama_cpp"], "transformers does: leave program out"),
        (["model=dpo/d", "program=llama_cpp"], "format=gguf"),
        (["model=dpo/d", "serve=true"], "format=gguf"),
        (["model=dpo/d@step-7"], "step"),
        (["model=PLACE/folder", "serve=true", "port=0"], "pip install vllm"),
        (["model=PLACE/folder", "prompts=no.jsonl"], "there is no such file"),
        (["model=PLACE/folder", "prompts=PLACE"], "cannot be read: it is a folder; expected a file of JSON lines"),
        (["model=PLACE/folder", "serve=true", "draft=dpo/d"], "leave one of them out"),
        (["model=PLACE/folder", "answers=a.jsonl"], "name the prompts too"),
        (["model=PLACE/folder", "sampling.top_p=2"], "sampling.top_p is 2"),
        (["model=PLACE/folder", "heat=2"], "heat"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_loaded(place, arguments, said, monkeypatch):
    monkeypatch.setattr("workflows.chat.load", lambda *_: pytest.fail("loaded"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    ended = run_here("chat", *(text.replace("PLACE", str(place)) for text in arguments), f"store={place / 'store'}")
    assert ended.code == 2
    assert said in ended.err
    assert "Traceback" not in ended.output


def test_a_gguf_without_llama_cpp_says_what_to_install(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    ended = run_here("chat", f"model={place / 'model.gguf'}")
    assert (ended.code, "pip install llama-cpp-python==0.3.36" in ended.err) == (2, True)


def test_artifacts_checkpoints_and_folders_answer_alike(place, tmp_path):
    files = []
    for number, model in enumerate(
        ("export/d", "dpo/d", "sft/d@latest", str(place / "folder"), str(place / "minicpm"))
    ):
        prompts = prompts_file(tmp_path / f"it's {number}.jsonl", 2)
        ended = run_here(
            "chat", f"model={model}", f"prompts='{prompts}'".replace("it's", "it\\'s"), f"store={place / 'store'}",
            "sampling.temperature=0", "sampling.max_new_tokens=6", "threads=1",
        )  # fmt: skip
        assert ended.code == 0, ended.output
        assert "2 answers in" in ended.out
        answers = (tmp_path / f"it's {number}.answers.jsonl").read_text("utf-8").strip().split("\n")
        files.append([json.loads(line)["messages"] for line in answers])
    assert len(files[0]) == 2
    assert all(file == files[0] for file in files)


def test_a_damaged_export_is_not_loaded(place, tmp_path):
    import shutil

    store = shutil.copytree(place / "store", tmp_path / "store")
    weights = store / "export" / "d" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    ended = run_here("chat", "model=export/d", f"store={store}")
    assert ended.code == 2
    assert "does not match its checksum" in ended.err


def test_a_dry_run_and_help_load_nothing(place, monkeypatch):
    monkeypatch.setattr("workflows.chat.load", lambda *_: pytest.fail("loaded"))
    ended = run_here("chat", "model=export/d", f"store={place / 'store'}", "dry_run=true", "draft=dpo/d")
    assert ended.code == 0
    assert "dpo/d@step-1" in ended.out
    ended = run_here("chat", "--help")
    assert "sampling:" in ended.out


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, *arguments, home):
        self.seen = ""
        pid, self.file = pty.fork()
        if pid == 0:
            os.environ.update(HOME=str(home), OMP_NUM_THREADS="1", TERM="xterm", LC_ALL="C.UTF-8")
            os.execv(sys.executable, [sys.executable, "-m", "workflows.chat", *arguments])
        self.pid = pid
        os.set_blocking(self.file, False)

    def read(self):
        with contextlib.suppress(OSError):  # nothing there yet, or nobody any more
            self.seen += os.read(self.file, 65536).decode(errors="replace")
        return self.seen

    def until(self, text, times=1):
        wait_until(lambda: self.read().count(text) >= times, f"{text!r} in the terminal", lambda: self.seen)

    def type(self, text):
        os.write(self.file, text.encode())

    def end(self):
        ended = []

        def gone():
            self.read()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                ended.append(os.waitstatus_to_exitcode(status))
            return pid

        wait_until(gone, "the command to end", lambda: self.seen)
        return ended[0]


@pytest.mark.slow
def test_a_chat_in_a_terminal(place, tmp_path):
    """Answers, Chinese, Ctrl-C at the prompt, Ctrl-D, and the lines of the last chat."""
    arguments = (f"model={place / 'folder'}", "sampling.temperature=0", "sampling.repetition_penalty=2", "threads=1")
    chat = Terminal(*arguments, "sampling.max_new_tokens=8", home=tmp_path)
    chat.until("> ")
    chat.type("1 + 1?\n")
    chat.until("answer 8 tokens at")
    chat.type("/undo\n")
    chat.until("0 exchanges are left")
    chat.type("\x03")
    chat.until("/quit or Ctrl-D ends")
    chat.type("话说天下\n")
    chat.until("answer 8 tokens at", times=2)
    chat.type("\x04")
    assert chat.end() == 0

    again = Terminal(*arguments, "sampling.max_new_tokens=8", home=tmp_path)
    again.until("> ")
    again.type("\x1b[A")
    again.until("话说天下")
    again.type("\n")
    again.until("answer 8 tokens at")
    again.type("/quit\n")
    assert again.end() == 0


def test_ctrl_c_ends_an_answer_and_not_the_chat(loaded, monkeypatch):
    lines = ["1 + 1?", "1 + 1?"]
    expected = talk(loaded, lines[:1])[0]
    whole, count = type(loaded)._read, [0]

    def interrupted(self, ids, last):
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        return whole(self, ids, last)

    monkeypatch.setattr(type(loaded), "_read", interrupted)
    out, notes = talk(loaded, [lines[0], "/undo", lines[1]])
    assert "stopped" in notes
    assert out.endswith(expected)
    assert len(out) < 2 * len(expected)
    count[0] = 0
    with pytest.raises(KeyboardInterrupt):
        talk(loaded, lines, interactive=False)


# ── Serving ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_server_is_waited_for_and_leaves_no_process(tmp_path):
    port = free_port()
    (tmp_path / "health").write_text("ok", encoding="utf-8")
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    server = Server(program="test", command=command, environment={}, health="/health", page=None)
    with serving.running(server, port) as process:
        assert serving._healthy(port, "/health")
        with pytest.raises(ConfigError, match="cannot be used on this machine"):
            serving.usable_port(port)
    assert process.poll() is not None
    assert serving.usable_port(port) == port
    failing = dataclasses.replace(server, command=[sys.executable, "-c", "print('no room'); raise SystemExit(3)"])
    with pytest.raises(ConfigError, match=r"exit code 3\): no room"), serving.running(failing, port):
        pass


@pytest.mark.campaign
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_llama_cpps_server_answers_the_printed_line_and_ends_with_the_command(place, tmp_path, number):
    pytest.importorskip("xllamacpp")
    port, log = free_port(), tmp_path / "log"
    command = [sys.executable, "-m", "workflows.chat", f"model={place / 'model.gguf'}", "serve=true", "threads=1"]
    with log.open("wb") as file:
        process = subprocess.Popen([*command, f"port={port}"], stdout=file, stderr=subprocess.STDOUT)
    wait_until(lambda: "Ctrl-C" in log.read_text("utf-8"), "the server", lambda: log.read_text("utf-8"))
    printed = log.read_text("utf-8")
    line = next(line for line in printed.splitlines() if line.startswith("curl"))
    asked = subprocess.run(shlex.split(line), capture_output=True, check=True, timeout=PATIENCE_SECONDS)
    assert json.loads(asked.stdout)["choices"][0]["message"]["role"] == "assistant"
    without = [word for word in shlex.split(line) if not word.startswith("Authorization")]
    without.remove("-H")
    refused = subprocess.run(without, capture_output=True, check=True, timeout=PATIENCE_SECONDS)
    assert json.loads(refused.stdout)["error"]["code"] == 401
    page = subprocess.run(["curl", "-s", "--compressed", f"http://127.0.0.1:{port}/"], capture_output=True, check=True)
    assert b"<html" in page.stdout
    process.send_signal(number)
    code = process.wait(PATIENCE_SECONDS)
    assert code == (-number if number == signal.SIGKILL else 0)
    wait_until(lambda: not serving._healthy(port, "/health"), "the server to end")


def test_the_printed_line_is_one_that_a_shell_runs():
    line = serving.curl_line(1234, "a-token", "it's", "Who's there? 谁？")
    words = shlex.split(line)
    assert words[:3] == ["curl", "-s", "http://127.0.0.1:1234/v1/chat/completions"]
    assert json.loads(words[-1])["model"] == "it's"
    assert json.loads(words[-1])["messages"][0]["content"] == "Who's there? 谁？"
    assert Path(words[0]).name == "curl"
