/** The lines of `%%ring_kernel` and `%ring` in cells, in the colours of the theme. */
import { language, syntaxTree } from '@codemirror/language';
import { type EditorState, type Extension, Prec, RangeSetBuilder } from '@codemirror/state';
import { Decoration, type DecorationSet, EditorView, ViewPlugin, type ViewUpdate } from '@codemirror/view';

import { type IToken, type Kind, ofCell, ofLine } from './words';

/** The variable of the theme that has the colour. */
const COLOURS: Readonly<Record<Exclude<Kind, 'code'>, string>> = {
  magic: 'keyword',
  command: 'def',
  option: 'attribute',
  definition: 'def',
  kernel: 'variable',
  string: 'string',
  number: 'number',
  value: 'variable'
};

const marks = new Map<Kind, Decoration>();
const rules: Record<string, Record<string, string>> = {};
for (const [kind, colour] of Object.entries(COLOURS)) {
  marks.set(kind as Kind, Decoration.mark({ class: `pdc-lab-word-${kind}` }));
  // Python's highlighting is around these words: its spans are no longer seen.
  rules[`.pdc-lab-word-${kind}, .pdc-lab-word-${kind} *`] = {
    color: `var(--jp-mirror-editor-${colour}-color)`,
    fontStyle: 'normal',
    fontWeight: kind === 'magic' ? 'bold' : 'normal'
  };
}

/** Cell magics whose cells are Python all the same. */
const PYTHON = /^\s*%%(ring_kernel|time|timeit|capture|prun|debug)(?=\s|$)/;
const OTHER = /^\s*%%/;
/** After a magic or a command of the shell, Python's parser does not know that a statement begins. */
const AFTER = /^\s*[%!]/;
const IS_TEXT = /String$|^Comment$/;

/** The words to colour between two places of a cell. */
export function* found(state: EditorState, from: number, to: number): Generator<IToken> {
  if (state.facet(language)?.name !== 'python') {
    return;
  }
  const { doc } = state;
  let first = doc.line(1);
  while (first.number < doc.lines && !first.text.trim()) {
    first = doc.line(first.number + 1);
  }
  if (OTHER.test(first.text) && !PYTHON.test(first.text)) {
    return;
  }
  for (let line = doc.lineAt(from); ; line = doc.line(line.number + 1)) {
    const tokens = line.number === first.number && OTHER.test(line.text) ? ofCell(line.text) : ofLine(line.text);
    if (tokens.length && isMagic(state, line.from, tokens, line.number > 1 ? doc.line(line.number - 1).text : '')) {
      for (const token of tokens) {
        yield { from: line.from + token.from, to: line.from + token.to, kind: token.kind };
      }
    }
    if (line.to >= to || line.number === doc.lines) {
      return;
    }
  }
}

/** Whether it is not part of a text over several lines, nor "modulo ring", which goes on from the line above. */
function isMagic(state: EditorState, start: number, tokens: IToken[], above: string): boolean {
  const node = syntaxTree(state).resolveInner(start + tokens[0]!.from, 1);
  for (let up: typeof node | null = node; up; up = up.parent) {
    if (IS_TEXT.test(up.name)) {
      return false;
    }
  }
  return tokens.length > 1 || node.name !== 'ArithOp' || AFTER.test(above);
}

const words = ViewPlugin.fromClass(
  class {
    decorations: DecorationSet;

    constructor(view: EditorView) {
      this.decorations = this._draw(view);
    }

    update(update: ViewUpdate): void {
      const { startState, state } = update;
      if (
        update.docChanged ||
        update.viewportChanged ||
        syntaxTree(startState) !== syntaxTree(state) ||
        startState.facet(language) !== state.facet(language)
      ) {
        this.decorations = this._draw(update.view);
      }
    }

    private _draw(view: EditorView): DecorationSet {
      const builder = new RangeSetBuilder<Decoration>();
      let end = -1; // two visible ranges may be parts of one line
      for (const { from, to } of view.visibleRanges) {
        for (const token of found(view.state, from, to)) {
          const mark = marks.get(token.kind);
          if (mark && token.from >= end) {
            builder.add(token.from, token.to, mark);
            end = token.to;
          }
        }
      }
      return builder.finish();
    }
  },
  { decorations: plugin => plugin.decorations }
);

/** Coloured inside of Python's own marks, which is what the highest precedence means. */
export const magics: Extension = [Prec.highest(words), EditorView.baseTheme(rules)];
