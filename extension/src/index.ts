import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { IConsoleTracker } from '@jupyterlab/console';
import { INotebookTracker } from '@jupyterlab/notebook';

import { Model } from './model';
import { IRingKernels } from './tokens';
import { track } from './tracker';

const kernels: JupyterFrontEndPlugin<Model> = {
    id: 'pydotcompute:kernels',
    description: 'Knows the ring kernels of the notebooks that are open.',
    autoStart: true,
    provides: IRingKernels,
    requires: [INotebookTracker],
    optional: [IConsoleTracker],
    activate: (_: JupyterFrontEnd, notebooks: INotebookTracker, consoles: IConsoleTracker | null) => {
        const model = new Model();
        track(model, notebooks, consoles);
        return model;
    }
};

export default [kernels];
