/** The cells of the templates, put into a notebook that is open or into a new one. */
import type { NotebookPanel } from '@jupyterlab/notebook';
import type { Contents } from '@jupyterlab/services';
import { type PartialJSONObject, UUID } from '@lumino/coreutils';

import templates from './templates.json';

const LOAD = '%load_ext pydotcompute';

function sources(name: keyof typeof templates): string[] {
  return templates[name].map(lines => lines.join('\n'));
}

/** Insert a template below the active cell, or in place of the only cell if that is empty. */
export function insert({ content, context }: NotebookPanel, name: keyof typeof templates): void {
  const notebook = context.model.sharedModel;
  const above = content.activeCell?.model.sharedModel ?? null;
  const loaded = notebook.cells.some(cell => cell.getSource().split('\n').includes(LOAD));
  const added = sources(name).filter(source => !(loaded && source === LOAD));
  const empty = notebook.cells.length === 1 && !notebook.cells[0]!.getSource().trim();
  const at = empty ? 0 : above ? notebook.cells.indexOf(above) + 1 : notebook.cells.length;
  // One change, which one "Undo Cell Operation" takes back.
  notebook.transact(() => {
    if (empty) {
      notebook.deleteCell(0);
    }
    notebook.insertCells(
      at,
      added.map(source => ({ cell_type: 'code', source, metadata: { trusted: true } }))
    );
  });
  content.deselectAll();
  content.mode = 'command';
  content.activeCellIndex = at;
  void content.scrollToItem(at, 'smart');
  content.activate();
}

/** Make a notebook in a folder; its path. */
export async function save(contents: Contents.IManager, path: string, kernelspec: PartialJSONObject): Promise<string> {
  const made = await contents.newUntitled({ path, type: 'notebook' });
  await contents.save(made.path, {
    type: 'notebook',
    format: 'json',
    content: {
      nbformat: 4,
      nbformat_minor: 5,
      metadata: { kernelspec },
      cells: sources('notebook').map(source => ({
        cell_type: 'code',
        id: UUID.uuid4(),
        execution_count: null,
        metadata: {},
        outputs: [],
        source
      }))
    }
  });
  return made.path;
}
