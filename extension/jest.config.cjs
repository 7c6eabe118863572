/** Tests of what needs no JupyterLab: the wire, the sessions, the model. */
module.exports = {
  testEnvironment: 'jsdom',
  roots: ['<rootDir>/src'],
  testMatch: ['<rootDir>/src/__tests__/*.spec.ts'],
  // What JupyterLab's packages publish is ES modules, which Node takes only as CommonJS here.
  transform: { '\\.[jt]sx?$': ['ts-jest', { tsconfig: 'tsconfig.jest.json', diagnostics: false }] },
  transformIgnorePatterns: ['/node_modules/(?!(@jupyter(lab)?|@lumino|@microsoft|lib0|y-protocols|yjs)/)'],
  resetMocks: true
};
