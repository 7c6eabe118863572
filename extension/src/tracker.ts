/** Which notebooks and consoles are open in this JupyterLab, and which of them is in front. */
import type { ISessionContext } from '@jupyterlab/apputils';
import type { Widget } from '@lumino/widgets';

import type { IConsoleTracker } from '@jupyterlab/console';
import type { INotebookTracker } from '@jupyterlab/notebook';

import type { Model } from './model';
import { Session } from './session';

type Panel = Widget & { sessionContext: ISessionContext };

/** Keep the model's sources as what the trackers of JupyterLab know. */
export function track(model: Model, notebooks: INotebookTracker, consoles: IConsoleTracker | null): void {
    const add = (panel: Panel): void => {
        const session = new Session(panel.sessionContext);
        const source = {
            id: panel.id,
            get name(): string {
                return panel.title.label;
            },
            get path(): string {
                return panel.sessionContext.path;
            },
            session
        };
        model.add(source);
        panel.title.changed.connect(model.renamed, model);
        panel.disposed.connect(() => model.remove(source.id));
    };
    const front = (panel: Panel | null): void => {
        if (panel) {
            model.front(panel.id);
        }
    };
    for (const tracker of [notebooks, ...(consoles ? [consoles] : [])]) {
        tracker.forEach((panel: Panel) => add(panel));
        tracker.widgetAdded.connect((_: unknown, panel: Panel) => add(panel));
        tracker.currentChanged.connect((_: unknown, panel: Panel | null) => front(panel));
        front(tracker.currentWidget);
    }
}
