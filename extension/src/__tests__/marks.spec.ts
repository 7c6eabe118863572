import { python } from '@codemirror/lang-python';
import { forceParsing, language } from '@codemirror/language';
import { EditorState } from '@codemirror/state';
import { EditorView } from '@codemirror/view';

import { found, magics } from '../marks';
import { ofCell, ofLine } from '../words';

/** The words with their kinds: `magic(%ring) command(ask)`. */
function told(text: string, tokens: Iterable<{ from: number; to: number; kind: string }>): string {
  return [...tokens].map(({ from, to, kind }) => `${kind}(${text.slice(from, to)})`).join(' ');
}

describe('the words of a line', () => {
  it.each([
    ['%%ring_kernel', 'magic(%%ring_kernel)'],
    ['%%ring_kernel shout', 'magic(%%ring_kernel) definition(shout)'],
    [
      '%%ring_kernel stats --state Past --queue-size 10',
      'magic(%%ring_kernel) definition(stats) option(--state) value(Past) option(--queue-size) number(10)'
    ],
    [
      '%%ring_kernel --restart stats --backend=cpu --quantum=0.5',
      'magic(%%ring_kernel) option(--restart) definition(stats) option(--backend) value(cpu) option(--quantum) number(0.5)'
    ],
    ['%%ring_kernel "my kernel" x', 'magic(%%ring_kernel) definition("my kernel") value(x)'],
    [
      "%%ring_kernel a --backoff 'Backoff(1, 2)' --window",
      "magic(%%ring_kernel) definition(a) option(--backoff) string('Backoff(1, 2)') option(--window)"
    ],
    ['%%ring_kernels x', ''],
    ['%%time', ''],
    ['x = 1 %%ring_kernel', '']
  ])('%s', (text, expected) => expect(told(text, ofCell(text))).toBe(expected));

  it.each([
    ['%ring', 'magic(%ring)'],
    ['    %ring status a "b c"', 'magic(%ring) command(status) kernel(a) kernel("b c")'],
    ['%ring pause --all', 'magic(%ring) command(pause) option(--all)'],
    ['%ring step a 3 --timeout 2', 'magic(%ring) command(step) kernel(a) number(3) option(--timeout) number(2)'],
    ['%ring ask shout "hello, you"', 'magic(%ring) command(ask) kernel(shout) code("hello, you")'],
    ['%ring send stats[3] --x - 1  ', 'magic(%ring) command(send) kernel(stats) code(--x - 1)'],
    [
      'x = %ring ask --timeout 5 shout f(1)',
      'magic(%ring) command(ask) option(--timeout) number(5) kernel(shout) code(f(1))'
    ],
    ['a["b=c"], *d = %ring peek a', 'magic(%ring) command(peek) kernel(a)'],
    [
      '%ring record --overwrite "a b.jsonl" shout',
      'magic(%ring) command(record) option(--overwrite) string("a b.jsonl") kernel(shout)'
    ],
    ['%ring loop thread', 'magic(%ring) command(loop) value(thread)'],
    ['%ring dance a', 'magic(%ring)'],
    ['%rings', ''],
    ['%ring?', ''],
    ['x %ring ask', ''],
    ['x == 1 %ring ask', ''],
    ['# x = %ring ask a 1', ''],
    ['print("%ring ask a")', ''],
    [`%ring ask a "${'x'.repeat(2000)}"`, '']
  ])('%s', (text, expected) => expect(told(text, ofLine(text))).toBe(expected));

  it('takes no long time for what is no magic', () => {
    const begun = performance.now();
    ofLine(`${'"a'.repeat(900)} %ring`);
    ofLine(`${'a '.repeat(900)} %ring`);
    ofLine(`%ring ask ${'\\'.repeat(1900)}`);
    expect(performance.now() - begun).toBeLessThan(100);
  });
});

function state(text: string, extension = python()): EditorState {
  return EditorState.create({ doc: text, extensions: [extension] });
}

const inAll = (text: string): string => told(text, found(state(text), 0, text.length));

describe('the lines of a cell', () => {
  it.each([
    [
      '%%ring_kernel a\n%ring pause b\nasync def a(ctx):\n    pass',
      'magic(%%ring_kernel) definition(a) magic(%ring) command(pause) kernel(b)'
    ],
    ['\n\n%%ring_kernel a\n', 'magic(%%ring_kernel) definition(a)'],
    ['%ring pause a\n%ring\n!ls\n%ring', 'magic(%ring) command(pause) kernel(a) magic(%ring) magic(%ring)'],
    ['%%time\n%ring health', 'magic(%ring) command(health)'],
    ['x = 1\n%ring\ny = x', 'magic(%ring)'],
    ['if x:\n    y = %ring peek a', 'magic(%ring) command(peek) kernel(a)']
  ])('are found in %j', (text, expected) => expect(inAll(text)).toBe(expected));

  it.each([
    'x = 1\n%%ring_kernel a',
    '%%bash\n%ring pause a',
    '%%markdown\n%ring',
    's = """\n%ring pause a\n"""',
    's = f"""\n%ring pause a\n"""',
    'y = (x\n%ring)',
    'y = (x\n%ring\n)',
    'y = x % ring\ny %= ring'
  ])('are not seen in %j', text => expect(inAll(text)).toBe(''));

  it('are left alone in other languages', () => {
    const text = '%ring pause a';
    expect([...found(state(text, [] as never), 0, text.length)]).toEqual([]);
  });

  it('are looked at only where they are asked for', () => {
    const text = '%ring health\n'.repeat(1000);
    expect(told(text, found(state(text), 13 * 500, 13 * 500 + 5))).toBe('magic(%ring) command(health)');
  });
});

describe('the editor', () => {
  it('draws them, follows what is typed, and leaves other lines as they are', () => {
    const lines = ['%ring ask shout "hello"', 'x = 1 % ring'];
    const plain = new EditorView({ state: state(lines.join('\n')) });
    const view = new EditorView({ state: state(lines.join('\n'), [python(), magics] as never) });
    forceParsing(view);
    const line = (v: EditorView, n: number): Element => v.contentDOM.querySelectorAll('.cm-line')[n]!;
    const words = (): string[] =>
      [...line(view, 0).querySelectorAll('[class^=pdc-lab-word]')].map(
        node => `${node.className.slice('pdc-lab-word-'.length)} ${node.textContent}`
      );
    expect(words()).toEqual(['magic %ring', 'command ask', 'kernel shout']);
    expect(line(view, 1).innerHTML).toBe(line(plain, 1).innerHTML);
    view.dispatch({ changes: { from: 10, to: 15, insert: 'x' } });
    expect(words()).toEqual(['magic %ring', 'command ask', 'kernel x']);
    view.dispatch({ changes: { from: 0, insert: '# ' } });
    expect(words()).toEqual([]);
    expect(view.state.facet(language)?.name).toBe('python');
  });
});
