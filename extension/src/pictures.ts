/**
 * A notebook that is opened again without its kernel shows the last picture of our live views.
 *
 * The picture stands beside the widget in the same output, but JupyterLab prefers the widget, of which it then finds
 * that it is not there. So the widget is taken out of an output when its kernel does not have it.
 */
import type { ICodeCellModel } from '@jupyterlab/cells';
import type { IOutput } from '@jupyterlab/nbformat';
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';

import { comms } from './session';

const VIEW = 'application/vnd.jupyter.widget-view+json';

interface IView {
  model_id: string;
  /** Whether it is one of ours. */
  pydotcompute?: boolean;
}

export function addPictures(notebooks: INotebookTracker): void {
  notebooks.forEach(panel => void look(panel));
  notebooks.widgetAdded.connect((_, panel) => void look(panel));
}

async function look({ context, sessionContext, content }: NotebookPanel): Promise<void> {
  await context.ready;
  const saved = [...views(content.model?.cells ?? [])];
  if (saved.length === 0) {
    return;
  }
  await sessionContext.ready;
  const kernel = sessionContext.session?.kernel;
  const there = kernel ? await comms(kernel, 'jupyter.widget').catch(() => null) : [];
  if (there === null || content.isDisposed) {
    return; // it ended before it answered, or the notebook was closed: nothing is known
  }
  const { dirty } = context.model;
  for (const { cell, id } of saved) {
    if (there.includes(id)) {
      continue;
    }
    for (let i = 0; i < cell.outputs.length; i++) {
      const output = cell.outputs.get(i).toJSON() as IOutput & { data?: { [mime: string]: unknown } };
      if ((output.data?.[VIEW] as IView | undefined)?.model_id === id) {
        const { [VIEW]: _, ...data } = output.data!;
        cell.outputs.set(i, { ...output, data } as IOutput);
      }
    }
  }
  context.model.dirty = dirty; // who only reads it is not asked to save
}

/** Our views among the outputs of some cells. */
function* views(cells: Iterable<unknown>): Iterable<{ cell: ICodeCellModel; id: string }> {
  for (const cell of cells as Iterable<ICodeCellModel>) {
    for (let i = 0; cell.type === 'code' && i < cell.outputs.length; i++) {
      const view = cell.outputs.get(i).data[VIEW] as unknown as IView | undefined;
      if (view?.pydotcompute) {
        yield { cell, id: view.model_id };
      }
    }
  }
}
