/** Which notebooks and consoles are open in this JupyterLab, and which of them is in front. */
import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { ConsolePanel, IConsoleTracker } from '@jupyterlab/console';
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';

import type { Model } from './model';
import { Session } from './session';

interface IParts {
  rendermime: IRenderMimeRegistry;
  revealer(cell: string | null): (() => void) | null;
}

/** Keep the model's sources as what the trackers of JupyterLab know. */
export function track(
  model: Model,
  app: JupyterFrontEnd,
  notebooks: INotebookTracker,
  consoles: IConsoleTracker | null
): void {
  const add = (panel: NotebookPanel | ConsolePanel, parts: IParts): void => {
    const id = panel.id;
    model.add({
      id,
      get name() {
        return panel.title.label;
      },
      get path() {
        return panel.sessionContext.path;
      },
      session: new Session(panel.sessionContext),
      ...parts
    });
    panel.title.changed.connect(model.renamed, model);
    panel.disposed.connect(() => model.remove(id));
  };
  const addNotebook = (panel: NotebookPanel): void =>
    add(panel, {
      rendermime: panel.content.rendermime,
      revealer: cell => {
        const at = cell === null ? -1 : panel.content.widgets.findIndex(({ model }) => model.id === cell);
        return at < 0
          ? null
          : () => {
              app.shell.activateById(panel.id);
              panel.content.activeCellIndex = at;
              void panel.content.scrollToItem(at, 'center');
            };
      }
    });
  const addConsole = (panel: ConsolePanel): void =>
    add(panel, { rendermime: panel.console.rendermime, revealer: () => null });
  const front = (panel: { id: string } | null): void => {
    if (panel) {
      model.front(panel.id);
    }
  };

  notebooks.forEach(addNotebook);
  notebooks.widgetAdded.connect((_, panel) => addNotebook(panel));
  consoles?.forEach(addConsole);
  consoles?.widgetAdded.connect((_, panel) => addConsole(panel));
  for (const tracker of [consoles, notebooks]) {
    tracker?.currentChanged.connect((_: unknown, panel: { id: string } | null) => front(panel));
    front(tracker?.currentWidget ?? null);
  }
  // Each tracker keeps the last one of its kind: back from a console to the notebook of before, neither says a thing.
  app.shell.currentChanged?.connect(() => {
    const panel = model.sources.find(({ id }) => id === app.shell.currentWidget?.id);
    front(panel ?? null);
  });
}
